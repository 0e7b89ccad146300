"""Measure one variant on this device: `python -m agent.profiling.benchmark`, a process of its own.

The request comes on standard input, the answers go to what was standard output. Stage code gets
the standard error stream for both, so nothing that it prints can end up among the answers.

The time of a batch of b items is all that the device spends on b items as they come: the model's
run, or one run for each of their shapes, and each item's share of preparing and finishing its request.

A device that serves rests between batches: its processor slows down, and others use its caches. So
it rests (`timing.PAUSE_S`) before each repeat here as well; back to back, small models are up to 1.6
times as fast. An emulated device waits after each step, and of that the same part.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import msgspec

import agent
from agent.errors import MeasurementFailed, StageCodeFailed
from agent.host_facts import host_facts
from agent.model_host import process, runtimes, stage_code
from agent.model_host.emulation import CountedTime, Dilation
from agent.model_host.inference import Inference, Item, Trial
from agent.profiling.disturbance import CpuTimes, Disturbance, DisturbanceWatch
from agent.profiling.fingerprint import memory
from agent.profiling.messages import (
    Answer,
    CannotRun,
    MeasureFailed,
    MeasureProgress,
    MeasureRequest,
    MeasureResult,
)
from agent.profiling.repeating import Samples, StoppingRule
from agent.profiling.rotation import Rotation
from agent.profiling.timing import PAUSE_S, Batches, DeviceClock, StageTiming, affordable, run
from agent.rollout.store import Store
from tiermesh.documents.profile import Point
from tiermesh.errors import TiermeshError, Unsupported
from tiermesh.frames import Payload, Tensor, pack

_PROGRESS_SECONDS: Final = 0.2
_OF_STAGE: Final = 0.5
"""Of the interval that is asked for, stage code may make so much."""
_PROGRAM: Final = Path(agent.__file__).parent

Report = Callable[[MeasureProgress], None]


@dataclass(slots=True)
class _Budget:
    """The time that is left, shared among the measurements that are still to be made, each by its weight."""

    ends_at: float
    steps: int
    taken: int = 0

    def share(self, weight: float, weights_left: float) -> float:
        """When a measurement should end, on the clock of `time.perf_counter`."""
        self.taken += 1
        return time.perf_counter() + max(self.left, 0.0) * weight / weights_left

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        return self.ends_at - time.perf_counter()


@dataclass(frozen=True, slots=True)
class _BenchmarkedVariant:
    """A variant, loaded with so many threads: the samples put through, and what it says of itself."""

    inference: Inference
    threads: int
    trials: list[Trial]

    @property
    def items(self) -> list[Item]:
        return [item for trial in self.trials for item in trial.items]


@dataclass(slots=True)
class Benchmark:
    """Measures what an `MeasureRequest` asks for.

    Unsupported and StageCodeFailed say why the device cannot run it; any other TiermeshError, why
    it could not be measured this time.
    """

    ask: MeasureRequest
    report: Report
    _points: list[Point] = field(default_factory=list[Point])
    _pace: DeviceClock = field(init=False)
    _baseline: int = 0

    def __post_init__(self) -> None:
        self._pace = DeviceClock(CountedTime(PAUSE_S), self.ask.slowdown)

    def run(self) -> MeasureResult:
        """The whole measurement."""
        ask = self.ask
        runtime = runtimes.runtime(ask.variant.runtime)
        runtime.start()
        stage_code.check_requires(ask.variant.bundle)
        _import_all(ask.variant.bundle.requires)
        ends_at = time.perf_counter() + ask.time_limit_seconds
        budget = _Budget(ends_at, len(ask.threads) * (1 + len(ask.batch_sizes)))
        self._baseline = process.forget_peak()
        before = CpuTimes.take()
        loads = [
            self._at_threads(threads, budget, len(ask.threads) - done)
            for done, threads in enumerate(ask.threads)
        ]
        if not self._points:
            raise MeasurementFailed(
                "no batch could be measured",
                why=f"the time limit is {ask.time_limit_seconds:g} s",
                fix="Give more time: coordinator profile --time-limit",
            )
        load_seconds, bytes_out, items = loads[0]
        others = Disturbance.between(before, CpuTimes.take())
        return MeasureResult(
            load_seconds=load_seconds,
            peak_memory_bytes=self._peak(),
            bytes_out_per_request=bytes_out,
            items_per_request=sum(items) / len(items),
            request_items=items,
            pause_seconds=PAUSE_S,
            disturbed=others.share,
            other_load_cores=others.other_cores,
            cpu_quota_cores=ask.quota_cores,
            points=self._points,
        )

    def _at_threads(
        self, threads: int, budget: _Budget, threads_left: int
    ) -> tuple[float, float, list[int]]:
        """All batch sizes on so many threads; load seconds, mean bytes out and items of the sample requests."""
        self._say(budget, f"load, {threads} threads")
        begun = time.perf_counter()
        dilation = Dilation(self.ask.slowdown, counted=self._pace.clock)
        inference = Inference.load(
            self.ask.variant, Store(Path(self.ask.store)), threads=threads, dilation=dilation
        )
        load_seconds = time.perf_counter() - begun
        with contextlib.closing(inference):
            self._say(budget, "warm-up and self-test")
            loaded = _BenchmarkedVariant(inference, threads, _tried(inference))
            until = time.perf_counter() + budget.left / threads_left
            self._sizes(loaded, _Budget(until, budget.steps, budget.taken))
            budget.taken += 1 + len(self.ask.batch_sizes)
        gc.collect()
        sizes = [payload_bytes(trial.result) for trial in loaded.trials]
        return load_seconds, sum(sizes) / len(sizes), [len(trial.items) for trial in loaded.trials]

    def _sizes(self, loaded: _BenchmarkedVariant, budget: _Budget) -> None:
        """The smallest batch size first, then the largest, which tell most, and those between."""
        takes, peaks = self._warmed(loaded, budget)
        sizes = list(takes)
        stage = self._stage(loaded, takes, budget)
        left = sum(takes.values())
        points: list[Point] = []
        for size in [*sizes[:1], *sizes[:0:-1][:1], *sizes[1:-1]]:
            batches = self._batches(loaded, stage, size, takes[size])
            ends_at = budget.share(takes[size], max(left, 1e-9))
            left -= takes[size]
            self._measure(batches, f"batch {size}, {loaded.threads} threads", ends_at, budget)
            points.append(batches.point(size, loaded.threads, peaks[size], self.ask.quota_cores))
        self._points += sorted(points, key=lambda point: point.batch_size)

    def _warmed(
        self, loaded: _BenchmarkedVariant, budget: _Budget
    ) -> tuple[dict[int, float], dict[int, int]]:
        """Run the heaviest batch of each size once, as far as there is time: seconds, and peaks of memory."""
        takes: dict[int, float] = {}
        peaks: dict[int, int] = {}
        for size in self.ask.batch_sizes:
            if not affordable(size, takes, budget.left):
                self._say(budget, f"batch {size}: left out, there is no time for it")
                break
            rotation = Rotation(loaded.items, [0.0], size)
            begun = time.perf_counter()
            run(loaded.inference, rotation.batch(rotation.largest))
            takes[size] = time.perf_counter() - begun
            peaks[size] = self._peak()
        return takes, peaks

    def _stage(
        self, loaded: _BenchmarkedVariant, takes: dict[int, float], budget: _Budget
    ) -> StageTiming:
        """What the stage code takes for each item, of one request after another, with unpacking and packing it.

        As well as the sum of it and the model's run must be known: stage code is often the smaller part.
        """
        self._say(budget, "stage code")
        trials, clock = loaded.trials, self._pace.clock
        timed = Samples([float(max(len(trial.items), 1)) for trial in trials])
        ends_at = budget.share(1.0, 1.0 + len(takes))
        model = min(takes.values(), default=0.0) * self.ask.slowdown
        arrived = [pack(trial.payload) for trial in trials]
        for which, trial in itertools.cycle(enumerate(trials)):
            self._pace.rest()
            begun = clock.now()
            payload = arrived[which].unpack()
            loaded.inference.prepare(payload)
            pack(loaded.inference.finish(payload, trial.outputs))
            timed.add(clock.now() - begun, which)
            per_item = timed.mean * len(trials) / len(loaded.items)
            rule = self._rule(_OF_STAGE * self.ask.interval * (1 + model / max(per_item, 1e-9)))
            all_seen = len(timed.seconds) % len(trials) == 0
            if all_seen and (timed.enough(rule) or time.perf_counter() > ends_at):
                return StageTiming(
                    item_shares(timed, [len(t.items) for t in trials]), timed.interval
                )
        raise AssertionError("cycle ended")

    def _batches(
        self, loaded: _BenchmarkedVariant, stage: StageTiming, size: int, takes: float
    ) -> Batches:
        """To be repeated until the interval that is asked for is reached, of which stage code has made a part."""
        part = stage.part(size, takes * self.ask.slowdown)
        left = math.sqrt(max(self.ask.interval**2 - part**2, (_OF_STAGE * self.ask.interval) ** 2))
        to_beat = dict(zip(self.ask.batch_sizes, self.ask.to_beat_seconds, strict=False))
        return Batches(
            loaded.inference,
            Rotation(loaded.items, stage.shares, size),
            stage,
            self._pace,
            self._rule(left),
            to_beat.get(size, 0.0),
            # What an emulated device waits for is not multiplied; a real one's waits are as long as its batch.
            DisturbanceWatch() if self.ask.slowdown == 1 else DisturbanceWatch(lambda: None),
        )

    def _measure(self, batches: Batches, what: str, ends_at: float, budget: _Budget) -> None:
        said = time.perf_counter()
        while batches.measure(ends_at):
            if time.perf_counter() - said > _PROGRESS_SECONDS:
                said = time.perf_counter()
                self._say(budget, f"{what}: {batches.said()}")
        self._say(budget, f"{what}: {batches.said()}")

    def _rule(self, interval: float) -> StoppingRule:
        return StoppingRule(interval, self.ask.min_repeats, self.ask.max_repeats)

    def _peak(self) -> int:
        """The most memory by which the process has grown."""
        return max(process.peak_bytes() - self._baseline, 0)

    def _say(self, budget: _Budget, doing: str) -> None:
        self.report(MeasureProgress(min(budget.taken / budget.steps, 1.0), doing))


def _tried(inference: Inference) -> list[Trial]:
    """The stage code's samples, put through and checked."""
    trials: list[Trial] = []
    wrong = inference.self_test(trials.append)
    if wrong is not None:
        raise Unsupported("the self-test fails on this device", why=wrong)
    if not any(trial.items for trial in trials):
        raise StageCodeFailed(
            "the stage code gives nothing to measure with", why="its samples have no items"
        )
    return trials


def item_shares(timed: Samples, items: Sequence[int]) -> list[float]:
    """Seconds of stage code per item; what a request without items costs is borne by all items."""
    by_request = timed.means()
    bearing = sum(mean for mean, n in zip(by_request, items, strict=True) if n)
    factor = sum(by_request) / bearing if bearing > 0 else 1.0
    return [factor * mean / n for mean, n in zip(by_request, items, strict=True) for _ in range(n)]


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
    process.confine(_memory_bytes())
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def say(answer: Answer) -> None:
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()

    ask = msgspec.json.decode(sys.stdin.buffer.read(), type=MeasureRequest)
    say(_outcome(ask, say))


def _memory_bytes() -> int:
    try:
        return memory.total_bytes(Path("/proc"), Path("/sys"), host_facts())
    except (OSError, ValueError):
        return 0


def _outcome(ask: MeasureRequest, report: Report) -> MeasureResult | CannotRun | MeasureFailed:
    try:
        return Benchmark(ask, report).run()
    except (Unsupported, StageCodeFailed) as error:
        return CannotRun(str(error))
    except TiermeshError as error:
        return MeasureFailed(error.to_dict())
    except MemoryError:
        return CannotRun("it does not fit into this device's memory")
    except Exception as error:  # noqa: BLE001 - stage code and runtimes may raise anything
        failed = StageCodeFailed.by(error, "the measurement fails")
        if not _raised_here(error):
            return CannotRun(str(failed))
        return MeasureFailed(MeasurementFailed(failed.what, why=failed.why).to_dict())


def _raised_here(error: BaseException) -> bool:
    """Whether it is this program that raised, and not stage code or a library that it or a runtime called."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(_PROGRAM)


if __name__ == "__main__":
    main()
