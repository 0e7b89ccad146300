"""Runs a variant in this process: for measuring its accuracy and for testing what was built.

Devices serve with the agent's own worker; here speed does not count, only what comes out.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast

from coordinator.variants.bundles import read_manifest
from coordinator.variants.ladder import Ladder
from tiermesh.errors import Unsupported

Payload = Mapping[str, Any]
Arrays = dict[str, Any]

_PACKAGES = itertools.count()


class StageCode(Protocol):
    """What stage code of a model offers; see `agent.model_host.stage_code` for the whole contract."""

    def items(self, payload: Payload) -> Sequence[Arrays]:
        """The model's inputs, one dict per item, without the batch axis."""
        ...

    def result(self, payload: Payload, outputs: Sequence[Arrays]) -> dict[str, Any]:
        """The payload for the next stage."""
        ...

    def samples(self) -> Sequence[dict[str, Any]]:
        """Known inputs."""
        ...

    def check(self, index: int, result: Payload) -> str | None:
        """What is wrong with the result of a sample, or None."""
        ...


class Running:
    """A loaded variant. One item is run at a time, so that batching cannot change an answer."""

    def __init__(
        self, ladder: Ladder, name: str, paths: Mapping[str, Path], *, threads: int = 1
    ) -> None:
        """Load a variant of `ladder`; `paths` are its files by name.

        Raises:
            Unsupported: its runtime, or a module that its stage code requires, is not here.
        """
        rung = ladder.rungs[name]
        if rung.runtime != "onnx":
            raise Unsupported(
                f"{ladder.model}/{name} cannot be run by the coordinator",
                why=f"its runtime is {rung.runtime}; only onnx is run here",
            )
        self._code = _stage_code(ladder.stage, paths, rung.options)
        self._session, self._outputs = _session(paths[ladder.model_file], threads)

    def process(self, payload: Payload) -> dict[str, Any]:
        """One request through pre-processing, model and post-processing."""
        return self._code.result(payload, [self._infer(item) for item in self._code.items(payload)])

    def self_test(self) -> str | None:
        """Every sample of the stage code, checked by it: None, or what is wrong."""
        for index, payload in enumerate(self._code.samples()):
            wrong = self._code.check(index, self.process(payload))
            if wrong is not None:
                return f"sample {index}: {wrong}"
        return None

    def _infer(self, item: Arrays) -> Arrays:
        batch = {name: array[None] for name, array in item.items()}
        outputs = self._session.run(self._outputs, batch)
        return {name: array[0] for name, array in zip(self._outputs, outputs, strict=True)}


def _session(model: Path, threads: int) -> tuple[Any, list[str]]:
    try:
        import onnxruntime
    except ImportError:
        raise Unsupported(
            "models cannot be run here",
            why="onnxruntime is not installed",
            fix="Run: pip install 'tiermesh[coordinator,onnx,vision,variants]'",
        ) from None
    options = cast(Any, onnxruntime).SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = cast(Any, onnxruntime).InferenceSession(
        str(model), options, providers=["CPUExecutionProvider"]
    )
    return session, [output.name for output in session.get_outputs()]


def _stage_code(folder: Path, files: Mapping[str, Path], options: Mapping[str, Any]) -> StageCode:
    module, _, name = read_manifest(folder).entry.partition(":")
    package = _package(folder)
    try:
        loaded = importlib.import_module(f"{package}.{module}")
    except ImportError as error:
        raise Unsupported(
            f"the stage code of {folder.parent.name} cannot be loaded",
            why=str(error),
            fix="Run: pip install 'tiermesh[coordinator,onnx,vision,variants]'",
        ) from None
    return cast(StageCode, getattr(loaded, name)(dict(files), dict(options)))


def _package(folder: Path) -> str:
    """The folder as a package with a name of its own, so that bundles cannot shadow each other's modules."""
    package = ModuleType(f"_stage_code_{next(_PACKAGES)}")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    return package.__name__
