"""Plain Python: a variant without a model file, whose stage code computes by itself.

Beside what all stage code of a model has, it has ``infer(batch)``: arrays by input name in, by output name out, the
first axis the item, as a model would. So rules, tables and libraries with models of their own are variants like any
others: measured, batched and placed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from agent.model_host.runtimes import InferenceRuntime, LoadedModel, ModelToLoad, settings_of
from tiermesh.documents import fingerprint
from tiermesh.documents.reading import Document
from tiermesh.errors import TiermeshError, Unsupported

Infer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class PythonSettings(Document, frozen=True, kw_only=True):
    """There are none."""


class PythonRuntime:
    """The interpreter that the agent runs in."""

    library = "python"
    install = "pip install numpy"
    needs_model_file = False

    def describe(self) -> fingerprint.Runtime:
        """It is there wherever NumPy is."""
        missing = None if importlib.util.find_spec("numpy") else "numpy is not installed"
        return fingerprint.Runtime(name="python", unavailable=missing)

    def start(self) -> None:
        """Import NumPy, which batches are made of."""
        import numpy as np  # noqa: F401  # pyright: ignore[reportUnusedImport]

    def load(self, model: ModelToLoad) -> LoadedModel:
        """Use the stage code's `infer`; Unsupported where it has none."""
        settings_of(model, PythonSettings)
        infer = getattr(model.code, "infer", None)
        if not callable(infer):
            raise Unsupported(
                f"the stage code of {model.variant} has no method infer",
                why="the runtime python computes with it",
                fix="Add infer(batch), or name the runtime of the model file",
                runtime="python",
            )
        return PythonSession(cast("Infer", infer))


class PythonSession:
    """Stage code that computes."""

    def __init__(self, infer: Infer) -> None:
        self._infer: Infer | None = infer

    def run(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """One batch: arrays by input name in, by output name out, the first axis the item.

        Raises:
            TiermeshError: an output has no axis of items.
        """
        assert self._infer is not None  # noqa: S101 - not closed
        size = len(next(iter(batch.values())))
        outputs = dict(self._infer(batch))
        for name, value in outputs.items():
            if len(value) != size:
                raise TiermeshError(
                    f"the output {name!r} of infer has {len(value)} items",
                    why=f"its first axis should be the {size} items of the batch",
                )
        return outputs

    def close(self) -> None:
        """Let go of the stage code."""
        self._infer = None


RUNTIME: Final[InferenceRuntime] = PythonRuntime()
