"""Measure one variant on this device: `python -m agent.profiling.benchmark`, a process of its own.

The request comes on standard input, the answers go to what was standard output. Stage code gets
the standard error stream for both, so nothing that it prints can end up among the answers.

The time of a batch of b items is all that the device spends on b items as they come: the model's
run, or one run for each of their shapes, and each item's share of preparing and finishing its request.

A device that serves rests between batches: its processor slows down, and others use its caches. So
it rests for `PAUSE_S` before each repeat here as well; back to back, small models are up to 1.6
times as fast. An emulated device waits after each step, and of that the same part.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import msgspec

import agent
from agent.errors import MeasurementFailed, StageCodeFailed
from agent.profiling import process
from agent.profiling.emulation import CountedTime, Dilation
from agent.profiling.messages import Answer, Ask, CannotRun, Failed, Measured, Progress
from agent.profiling.repeating import Rule, Samples
from agent.rollout.store import Store
from agent.serving.compute import runtimes, stagecode
from agent.serving.compute.inference import Inference, Item, by_shape
from tiermesh.documents.profile import Point
from tiermesh.errors import TiermeshError, Unsupported
from tiermesh.frames import Payload, Tensor

PAUSE_S: Final = 0.02
"""Longer ones change little: what is lost by resting is lost by then."""
_PROGRESS_SECONDS: Final = 0.2
_PROGRAM: Final = Path(agent.__file__).parent

Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class _Sample:
    """A typical request, split up, and what the model made of it."""

    payload: Payload
    items: list[Item]
    outputs: list[Mapping[str, Any]]


@dataclass(slots=True)
class _Budget:
    """The time that is left, shared evenly among the measurements that are still to be made."""

    ends_at: float
    steps: int
    taken: int = 0

    def next_share(self) -> float:
        """When the next measurement should end, on the clock of `time.perf_counter`."""
        now = time.perf_counter()
        share = max(self.ends_at - now, 0.0) / max(self.steps - self.taken, 1)
        self.taken += 1
        return now + share

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        return self.ends_at - time.perf_counter()


@dataclass(slots=True)
class Benchmark:
    """Measures what an `Ask` asks for.

    Unsupported and StageCodeFailed say why the device cannot run it; any other TiermeshError, why
    it could not be measured this time.
    """

    ask: Ask
    report: Report
    _points: list[Point] = field(default_factory=list[Point])
    _clock: CountedTime = field(default_factory=lambda: CountedTime(PAUSE_S))
    _baseline: int = 0

    def run(self) -> Measured:
        """The whole measurement."""
        ask = self.ask
        runtime = runtimes.runtime(ask.variant.runtime)
        runtime.start()
        stagecode.check_requires(ask.variant.bundle)
        _import_all(ask.variant.bundle.requires)
        budget = _Budget(
            time.perf_counter() + ask.time_limit_seconds,
            len(ask.threads) * (1 + len(ask.batch_sizes)),
        )
        self._baseline = process.forget_peak()
        loads = [self._at_threads(threads, budget) for threads in ask.threads]
        if not self._points:
            raise MeasurementFailed(
                "no batch could be measured",
                why=f"the time limit is {ask.time_limit_seconds:g} s",
                fix="Give more time: coordinator profile --time-limit",
            )
        load_seconds, bytes_out, items = loads[0]
        return Measured(
            load_seconds=load_seconds,
            peak_memory_bytes=self._peak(),
            bytes_out_per_request=bytes_out,
            items_per_request=sum(items) / len(items),
            request_items=items,
            pause_seconds=PAUSE_S,
            points=self._points,
        )

    def _at_threads(self, threads: int, budget: _Budget) -> tuple[float, float, list[int]]:
        """All batch sizes on so many threads; load seconds, mean bytes out and items of the sample requests."""
        self._say(budget, f"load, {threads} threads")
        begun = time.perf_counter()
        dilation = Dilation(self.ask.slowdown, counted=self._clock)
        inference = Inference.load(
            self.ask.variant, Store(Path(self.ask.store)), threads=threads, dilation=dilation
        )
        load_seconds = time.perf_counter() - begun
        with contextlib.closing(inference):
            self._say(budget, "warm-up and self-test")
            wrong = inference.self_test()
            if wrong is not None:
                raise Unsupported("the self-test fails on this device", why=wrong)
            samples, bytes_out = _samples(inference)
            self._say(budget, "stage code")
            shares = self._item_shares(inference, samples, budget.next_share())
            for size in self.ask.batch_sizes:
                self._batches(inference, samples, shares, (size, threads), budget)
        gc.collect()
        return load_seconds, bytes_out, [len(sample.items) for sample in samples]

    def _item_shares(
        self, inference: Inference, samples: Sequence[_Sample], ends_at: float
    ) -> list[float]:
        """Seconds of stage code per item, of one request after another."""
        per_request, shares, carried = Samples(), list[float](), 0.0
        for which, sample in itertools.cycle(enumerate(samples)):
            self._rest()
            begun = self._clock.now()
            inference.prepare(sample.payload)
            inference.finish(sample.payload, sample.outputs)
            seconds = self._clock.now() - begun
            per_request.add(seconds, which)
            # What a request without items costs is borne by the items of the next one.
            carried += seconds
            if sample.items:
                shares += [carried / len(sample.items)] * len(sample.items)
                carried = 0.0
            all_seen = len(per_request.seconds) % len(samples) == 0
            is_enough = self._enough(per_request, len(samples))
            if all_seen and (is_enough or time.perf_counter() > ends_at):
                return shares
        raise AssertionError("cycle ended")

    def _batches(
        self,
        inference: Inference,
        samples: Sequence[_Sample],
        shares: Sequence[float],
        setting: tuple[int, int],
        budget: _Budget,
    ) -> None:
        """Measure one batch size, unless there is no time for it."""
        size, threads = setting
        what = f"batch {size}, {threads} threads"
        ends_at = budget.next_share()
        if self._takes(size) * (1 + self.ask.min_repeats) > budget.left:
            self._say(budget, f"{what}: left out, there is no time for it")
            return
        items = [item for sample in samples for item in sample.items]
        batches, share_of = _rotating(items, size), itertools.cycle(shares)
        _run(inference, next(batches)[1])
        timed, said = Samples(), time.perf_counter()
        while not timed.seconds or (
            time.perf_counter() < ends_at and not self._enough(timed, len(items))
        ):
            first, batch = next(batches)
            self._rest()
            begun = self._clock.now()
            _run(inference, batch)
            seconds = self._clock.now() - begun
            timed.add(seconds + sum(itertools.islice(share_of, size)), first)
            if time.perf_counter() - said > _PROGRESS_SECONDS:
                said = time.perf_counter()
                self._say(budget, f"{what}: {_so_far(timed)}")
        timed = timed.whole_rounds(len(items))
        self._say(budget, f"{what}: {_so_far(timed)}")
        self._points.append(_point(timed, size, threads, self._peak()))

    def _enough(self, timed: Samples, round_length: int) -> bool:
        """At the end of a round, in which every item or request has had its turn; or it is too much."""
        ask, taken = self.ask, len(timed.seconds)
        if taken % round_length and taken < ask.max_repeats:
            return False
        return timed.enough(Rule(ask.interval, ask.min_repeats, ask.max_repeats))

    def _takes(self, size: int) -> float:
        """Seconds that measuring a batch of this size will take, by the last that was; 0 where none was."""
        if not self._points:
            return 0.0
        last = self._points[-1]
        if size <= last.batch_size:
            return 0.0
        return last.seconds.mean * size / last.batch_size / self.ask.slowdown + PAUSE_S

    def _rest(self) -> None:
        """As between batches; an emulated device has waited already."""
        if self.ask.slowdown == 1:
            threading.Event().wait(PAUSE_S)

    def _peak(self) -> int:
        """The most memory by which the process has grown."""
        return max(process.peak_bytes() - self._baseline, 0)

    def _say(self, budget: _Budget, doing: str) -> None:
        self.report(Progress(min(budget.taken / budget.steps, 1.0), doing))


def _samples(inference: Inference) -> tuple[list[_Sample], float]:
    """The stage code's samples with their outputs, and the mean bytes of their results."""
    samples: list[_Sample] = []
    sizes: list[int] = []
    for payload in inference.samples():
        items = inference.prepare(payload)
        outputs: dict[int, Mapping[str, Any]] = {}
        for group in by_shape(items):
            outputs.update(zip(group, inference.infer([items[i] for i in group]), strict=True))
        in_order = [outputs[i] for i in range(len(items))]
        sizes.append(payload_bytes(inference.finish(payload, in_order)))
        samples.append(_Sample(payload, items, in_order))
    if not any(sample.items for sample in samples):
        raise StageCodeFailed(
            "the stage code gives nothing to measure with", why="its samples have no items"
        )
    return samples, sum(sizes) / len(sizes)


def _rotating(items: Sequence[Item], size: int) -> Iterator[tuple[int, list[list[Item]]]]:
    """Batches of neighbouring items by shape, each with the number of its first item; each item in turn is one."""
    for first in itertools.cycle(range(len(items))):
        batch = [items[(first + i) % len(items)] for i in range(size)]
        yield first, [[batch[i] for i in group] for group in by_shape(batch)]


def _run(inference: Inference, batch: Sequence[Sequence[Item]]) -> None:
    for alike in batch:
        inference.infer(alike)


def _point(timed: Samples, size: int, threads: int, peak_memory_bytes: int) -> Point:
    return Point(
        batch_size=size,
        threads=threads,
        samples=len(timed.seconds),
        seconds=timed.distribution(),
        items_per_second=size / timed.mean,
        interval=timed.interval,
        peak_memory_bytes=peak_memory_bytes,
    )


def _so_far(timed: Samples) -> str:
    return f"{timed.mean * 1e3:.3g} ms ± {timed.interval:.0%}"


def payload_bytes(payload: Payload) -> int:
    """What a payload takes in a frame: its tensors and bytes raw, the rest as JSON."""
    raw: list[int] = []
    plain = _without_raw(payload, raw)
    return len(msgspec.json.encode(plain, enc_hook=str)) + sum(raw)


def _without_raw(value: Any, sizes: list[int]) -> Any:
    """`value` with its tensors and bytes taken out; their sizes go to the list."""
    match value:
        case Tensor():
            sizes.append(len(value.data))
        case bytes() | bytearray():
            sizes.append(len(value))
        case dict():
            pairs = cast("dict[str, Any]", value).items()
            return {key: _without_raw(inner, sizes) for key, inner in pairs}
        case list() | tuple():
            return [_without_raw(inner, sizes) for inner in cast("list[Any]", value)]
        case _ if hasattr(value, "nbytes"):
            sizes.append(value.nbytes)
        case _:
            return value
    return {"$": len(sizes)}


def _import_all(modules: Sequence[str]) -> None:
    """What stage code imports is the process's as well, and not each variant's anew."""
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


def main() -> None:
    """Read the request, measure, answer."""
    process.die_with(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def say(answer: Answer) -> None:
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()

    ask = msgspec.json.decode(sys.stdin.buffer.read(), type=Ask)
    say(_outcome(ask, say))


def _outcome(ask: Ask, report: Report) -> Measured | CannotRun | Failed:
    try:
        return Benchmark(ask, report).run()
    except (Unsupported, StageCodeFailed) as error:
        return CannotRun(str(error))
    except TiermeshError as error:
        return Failed(error.to_dict())
    except MemoryError:
        return CannotRun("it does not fit into this device's memory")
    except Exception as error:  # noqa: BLE001 - stage code and runtimes may raise anything
        failed = StageCodeFailed.by(error, "the measurement fails")
        if not _raised_here(error):
            return CannotRun(str(failed))
        return Failed(MeasurementFailed(failed.what, why=failed.why).to_dict())


def _raised_here(error: BaseException) -> bool:
    """Whether it is this program that raised, and not stage code or a library that it or a runtime called."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(_PROGRAM)


if __name__ == "__main__":
    main()
