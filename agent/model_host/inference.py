"""One variant, loaded: a request's payload to items, through the model, to the next payload.

Everything here computes on the calling thread, and waits there for an emulated device: call it from
the compute thread, never from an event loop.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from agent.errors import StageCodeFailed
from agent.model_host import model_files, runtimes, stage_code
from agent.model_host.emulation import CountedTime, Dilation
from agent.model_host.runtimes import LoadedModel, ModelToLoad
from agent.model_host.stage_code import ModelCode
from tiermesh.arrays import arrays
from tiermesh.documents.variant import Variant
from tiermesh.errors import TiermeshError
from tiermesh.frames import Payload

if TYPE_CHECKING:
    from pathlib import Path


class Artifacts(Protocol):
    """Where a variant's files lie; `agent.rollout.store.Store` is one."""

    def path(self, digest: str) -> Path:
        """The file of that digest."""
        ...

    def unpack(self, digest: str) -> Path:
        """The folder with the content of a bundle."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """What the model sees of (part of) a request. Items of equal `shape_key` fit into one batch."""

    inputs: Mapping[str, Any]
    shape_key: Hashable


@dataclass(frozen=True, slots=True)
class Trial:
    """A request, split up, what the model made of it, and the payload for the next stages."""

    payload: Payload
    items: list[Item]
    outputs: list[dict[str, Any]]
    result: Payload


class Inference:
    """A loaded variant. Not thread-safe: one call at a time."""

    def __init__(self, code: ModelCode, session: LoadedModel, dilation: Dilation) -> None:
        self._code = code
        self._session = session
        self._dilation = dilation
        self._clock: Callable[[], float] = time.perf_counter

    @classmethod
    def load(
        cls,
        variant: Variant,
        store: Artifacts,
        *,
        threads: int,
        slowdown: float = 1.0,
        dilation: Dilation | None = None,
    ) -> Inference:
        """Load the model and its stage code from the store.

        `slowdown` makes an emulated device wait; a `dilation` that is given decides how, instead.

        Raises:
            Unsupported: the runtime, or a Python module that the stage code requires, is missing or
            cannot.
            StageCodeFailed: the stage code does not load.
            TiermeshError: an artifact is not in the store.
        """
        runtime = runtimes.runtime(variant.runtime)
        files = {name: store.path(artifact.digest) for name, artifact in variant.files.items()}
        model_file = _model_file(variant, needed=runtime.needs_model_file)
        folder = store.unpack(variant.bundle.artifact.digest)
        code = stage_code.load(variant.bundle, folder, files, variant.options, "model")
        _limit_threads(threads)
        with model_files.named(files) as named:
            session = runtime.load(
                ModelToLoad(
                    variant=f"{variant.model}/{variant.name}",
                    model=named[model_file] if model_file is not None else None,
                    files=named,
                    settings=variant.settings or {},
                    threads=threads,
                    code=code,
                )
            )
        return cls(code, session, dilation or Dilation(slowdown))

    def prepare(self, payload: Payload) -> list[Item]:
        """Split a request into the items that the model shall see."""
        with self._dilation.slowed():
            return [_item(inputs) for inputs in self._code.items(arrays(payload))]

    def infer(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """Run one batch of items of equal shapes; the outputs, one dict per item, in order."""
        import numpy as np

        with self._dilation.slowed():
            batch = {
                name: np.stack([item.inputs[name] for item in items]) for name in items[0].inputs
            }
            outputs = self._session.run(batch)
            return [{name: array[i] for name, array in outputs.items()} for i in range(len(items))]

    def finish(self, payload: Payload, outputs: Sequence[Mapping[str, Any]]) -> Payload:
        """Put a request together again: the payload for the next stages."""
        with self._dilation.slowed():
            return self._code.result(arrays(payload), [dict(one) for one in outputs])

    def now(self) -> float:
        """Seconds of a clock that goes on while this device computes, or would still be computing."""
        return self._clock()

    @contextmanager
    def counting(self) -> Generator[None]:
        """For the block, what an emulated device would wait is counted on `now`, and not waited for."""
        before, counted = (self._dilation, self._clock), CountedTime()
        self._dilation = Dilation(self._dilation.slowdown, counted=counted)
        self._clock = counted.now
        try:
            yield
        finally:
            self._dilation, self._clock = before

    def samples(self) -> list[Payload]:
        """The typical payloads that the stage code brings."""
        return list(self._code.samples())

    def process(self, payload: Payload) -> Payload:
        """One request on its own, in as few batches as its items' shapes allow."""
        return self.trial(payload).result

    def trial(self, payload: Payload, *, batched: bool = True) -> Trial:
        """One request on its own, with all that becomes of it; unless `batched`, each of its items by itself."""
        items = self.prepare(payload)
        outputs: dict[int, dict[str, Any]] = {}
        for group in by_shape(items) if batched else [[i] for i in range(len(items))]:
            outputs.update(zip(group, self.infer([items[i] for i in group]), strict=True))
        in_order = [outputs[i] for i in range(len(items))]
        return Trial(payload, items, in_order, self.finish(payload, in_order))

    def warm(self, batch_size: int = 1) -> None:
        """Run each shape among the samples once, so that no request pays for the first time."""
        items = [item for payload in self.samples() for item in self.prepare(payload)]
        for group in by_shape(items):
            self.infer([items[group[i % len(group)]] for i in range(batch_size)])

    def self_test(self, tried: Callable[[Trial], object] = lambda _: None) -> str | None:
        """Put every sample through and let the stage code check it: None, or what is wrong. `tried` is shown each."""
        for index, payload in enumerate(self.samples()):
            try:
                trial = self.trial(payload)
                tried(trial)
                wrong = self._code.check(index, trial.result)
            except Exception as error:  # noqa: BLE001 - stage code may raise anything
                wrong = str(StageCodeFailed.by(error, "the stage code fails"))
            if wrong:
                return f"sample {index}: {wrong}"
        return None

    def close(self) -> None:
        """Give the model's memory back."""
        self._session.close()


def _model_file(variant: Variant, *, needed: bool) -> str | None:
    name = variant.model_file
    if name is None and not needed:
        return None
    if name is None or name not in variant.files:
        why = "its runtime needs a model file, and it names none"
        raise TiermeshError(
            f"the variant {variant.name} is incomplete",
            why=why if name is None else f"its model file {name} is not among its files",
        )
    return name


def by_shape(items: Sequence[Item]) -> Iterable[list[int]]:
    """The indices of the items, grouped by equal shapes."""
    groups: dict[Hashable, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(item.shape_key, []).append(index)
    return groups.values()


def _item(inputs: Mapping[str, Any]) -> Item:
    key = tuple((name, inputs[name].dtype.str, inputs[name].shape) for name in sorted(inputs))
    return Item(inputs, key)


def _limit_threads(threads: int) -> None:
    """OpenCV has a pool of its own that would use cores the device does not give."""
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(threads)
