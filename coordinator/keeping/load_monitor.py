"""Load, device time and attainment of one workflow, measured against what its plan was made for. Pure.

Samples go in; what is known, and how surely, comes out.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from coordinator.replanning.bursts import planned_dispersion, planned_spread
from coordinator.replanning.current_problem import asked_rate
from coordinator.replanning.load import LoadEstimate, LoadTest, dispersion_of
from coordinator.replanning.reasons import DEFAULT, Policy
from coordinator.replanning.slo import Attained, Burn
from coordinator.telemetry.drift import (
    Drift,
    DriftWindow,
    Key,
    Ratio,
    drift,
    key_of,
    means_of,
    ratio_at,
    windows,
)
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem, ProblemStage
from tiermesh.v1 import telemetry_pb2 as pb

DRIFT_STEP_S: Final = 1.0
"""Samples that are closer than this tell nothing more about device time."""
NEWEST_BATCHES: Final = 60
NEWEST_WINDOWS: Final = 20
"""What has changed shows in so many batches, in so many windows, at least."""
BATCHES: Final = 600
SECONDS: Final = 60.0
SECONDS_MAX: Final = 3_600.0
"""Otherwise what is remembered are so many batches, and a minute; an hour at most."""
GROUPS: Final = 40
FIRST_BATCHES: Final = 8
"""From so many on the prediction is corrected; a replan takes what is significant."""
BACKLOG_S: Final = 2.0
"""Sources that wait for answers longer than this beyond what was predicted are held back by the mesh."""
LEAST_LESS: Final = 0.85
"""Less load than planned says nothing where more than this share of it is planned for in any case."""


@dataclass(frozen=True, slots=True)
class _Said:
    """What a source said at a time of its device's clock; `offered` is what it accepted, and what waits for that."""

    at: float
    accepted: int
    offered: int
    in_flight: int
    waiting: int
    finished: bool


@dataclass
class LoadMonitor:
    """The newest samples of a workflow's sources and replicas, since its plan serves.

    `problem` is the one that the plan was made, or last judged, for, with the profiles as they were measured;
    `corrections` is what they were corrected by. `past` are counts of the sources, by stage, from before.
    """

    problem: Problem
    corrections: Mapping[Key, Drift]
    plan: Plan
    run: str
    generation: int
    policy: Policy = DEFAULT
    past: Mapping[str, Iterable[tuple[float, float]]] = field(
        default_factory=dict[str, Iterable[tuple[float, float]]]
    )
    _tests: dict[str, LoadTest] = field(init=False)
    _attained: Attained = field(init=False)
    _sources: dict[tuple[str, str], _Said] = field(default_factory=dict[tuple[str, str], _Said])
    _replicas: dict[str, deque[tuple[float, pb.ReplicaSample]]] = field(
        default_factory=lambda: defaultdict(deque)
    )

    def __post_init__(self) -> None:
        """Begin the tests."""
        self._attained = Attained(
            {str(name): seconds for name, seconds in self.problem.asks.latency_s.items()},
            self.policy.false_alarm_s,
        )
        self._tests = {
            stage.name: self._test(stage)
            for stage in self.problem.stages
            if stage.kind == "source" and stage.rate_rps
        }

    def _test(self, stage: ProblemStage) -> LoadTest:
        return LoadTest(
            stage.rate_rps or 0.0,
            self.policy.false_alarm_s,
            planned_dispersion(stage),
            self.past.get(stage.name, ()),
            planned_spread(stage),
        )

    def take(self, device: str, sample: pb.Sample) -> None:
        """Take in a sample of a device (by name)."""
        serves = sample.generations.get(self.problem.name, 0) == self.generation
        for source in sample.figures.sources:
            if (source.workflow, source.run) == (self.problem.name, self.run):
                self._take_source(device, sample.at, source)
                self._attained.take(device, sample.at, source, serves=serves)
        for replica in sample.figures.replicas:
            if (replica.workflow, replica.generation) == (self.problem.name, self.generation):
                _keep(self._replicas[replica.replica], sample.at, replica)

    def _take_source(self, device: str, at: float, source: pb.SourceSample) -> None:
        said = _Said(
            at,
            source.accepted,
            source.accepted + source.waiting,
            source.in_flight,
            source.waiting,
            source.finished,
        )
        before = self._sources.get((device, source.stage))
        self._sources[device, source.stage] = said
        test = self._tests.get(source.stage)
        # Otherwise it is another run, or an agent that started again under a clock that was set back.
        if test is None or before is None or before.accepted > said.accepted or before.at >= at:
            return
        if not said.finished:
            share = self._share(device, source.stage)
            seconds = (at - before.at) * share
            test.add(said.offered - before.offered, seconds, held_back=self._is_backlogged)

    def _share(self, device: str, stage: str) -> float:
        """The share of a source's requests that a device makes."""
        rates = {r.device: r.items_per_second for r in self.plan.replicas if r.stage == stage}
        total = sum(rates.values())
        if device in rates and total > 0:
            return rates[device] / total
        return 1 / max(sum(name == stage for _, name in self._sources), 1)

    def load(self, least_rps: float = 0.0) -> LoadEstimate | None:
        """The load of the source that has changed, or of the busiest; None where it cannot be told.

        Less load than planned is no change while `least_rps` are to be planned for in any case.
        """
        loads = [found for stage, test in self._tests.items() if (found := self._load(stage, test))]
        one = max(loads, key=lambda load: (load.changed, load.rate.rps), default=None)
        if one is None or (one.ratio < 1 and least_rps > LEAST_LESS * one.planned_rps):
            return None if one is None else replace(one, changed=False)
        return one

    def dispersions(self) -> tuple[float, float]:
        """The variance over the mean of the busiest source's counts: as planned, and as it is for sure."""
        test = max(self._tests.values(), key=lambda test: test.planned_rps, default=None)
        if test is None:
            return 1.0, 1.0
        return test.dispersion, dispersion_of(test.counted(), test.dispersion)

    def _load(self, stage: str, test: LoadTest) -> LoadEstimate | None:
        of = [said for (_, name), said in self._sources.items() if name == stage]
        return test.load() if any(not said.finished for said in of) else None

    @property
    def backlog(self) -> float:
        """Requests that have come, and that would have ended were they served as planned."""
        said = self._sources.values()
        return max(sum(s.in_flight + s.waiting for s in said) - self._expected_in_flight, 0.0)

    @property
    def _expected_in_flight(self) -> float:
        expected_s = max(self.plan.predicted.latency_ms.values(), default=0.0) / 1e3
        return 1 + asked_rate(self.problem) * expected_s

    @property
    def _is_backlogged(self) -> bool:
        in_flight = sum(said.in_flight for said in self._sources.values())
        return in_flight > self._expected_in_flight + asked_rate(self.problem) * BACKLOG_S

    def counted(self) -> dict[str, list[tuple[float, float]]]:
        """Counts of the sources, by stage: the `past` of what measures after this."""
        return {stage: test.counted() for stage, test in self._tests.items()}

    def burn(self) -> Burn | None:
        """The error budget that burns too fast; None if none does."""
        return self._attained.burn()

    def drifts(self) -> dict[Key, Drift]:
        """How device times compare with the profiles, where enough batches tell; else as was known before.

        May be called in another thread than `take`.
        """
        profiles = {(p.stage, p.variant, p.device): p for p in self.problem.profiles}
        found: dict[Key, Drift] = dict(self.corrections)
        for replica in self.plan.replicas:
            profile = profiles.get(key_of(replica))
            observed = self._windows(replica.id)
            if not observed or profile is None:
                continue
            one = _drift(observed, means_of(profile.batches))
            if one.overall is not None and one.overall.batches >= FIRST_BATCHES:
                found[key_of(replica)] = one
        return found

    def ratios(self) -> dict[str, Ratio]:
        """By replica, measured over planned device time.

        The intervals hold together: over all replicas and looks, one errs once in `Policy.false_alarm_s` at most.
        """
        profiles = {(p.stage, p.variant, p.device): p for p in self.problem.profiles}
        error = DRIFT_STEP_S / self.policy.false_alarm_s / (2 * max(len(self.plan.replicas), 1))
        found: dict[str, Ratio] = {}
        for replica in self.plan.replicas:
            observed, profile = self._windows(replica.id), profiles.get(key_of(replica))
            if profile is not None and observed:
                planned = self.corrections.get(key_of(replica))
                of = planned.overall.ratio if planned and planned.overall else 1.0
                looks = (
                    ratio_at(windows, means_of(profile.batches), error, GROUPS)
                    for windows in (observed, newest(observed))
                )
                sure = [ratio.over(of) for ratio in looks if ratio is not None]
                found[replica.id] = max(
                    sure, key=lambda ratio: abs(math.log(max(ratio.sure, 1e-9)))
                )
        return found

    def _windows(self, replica: str) -> list[DriftWindow]:
        kept = self._replicas.get(replica)
        return windows([sample for _, sample in list(kept)]) if kept else []


def newest(observed: Sequence[DriftWindow]) -> Sequence[DriftWindow]:
    """The windows that show what has changed of late."""
    batches = 0
    for n, window in enumerate(reversed(observed), start=1):
        batches += sum(window.batches.values())
        if batches >= NEWEST_BATCHES and n >= NEWEST_WINDOWS:
            return observed[-n:]
    return observed


def _drift(observed: Sequence[DriftWindow], profile: Mapping[int, float]) -> Drift:
    """Of all that is remembered; where what is newest is apart from that, of the newest."""
    whole = drift(observed, profile)
    of_late = newest(observed)
    if len(of_late) == len(observed) or whole.overall is None:
        return whole
    late = drift(of_late, profile)
    if late.overall is None:
        return whole
    is_apart = late.overall.low > whole.overall.high or late.overall.high < whole.overall.low
    return late if is_apart else whole


def _keep(
    kept: deque[tuple[float, pb.ReplicaSample]], at: float, replica: pb.ReplicaSample
) -> None:
    if kept and kept[-1][0] > at:
        kept.clear()
    if kept and at - kept[-1][0] < DRIFT_STEP_S:
        return
    kept.append((at, replica))
    while len(kept) > 2 and _is_old(kept[1], at, replica):
        kept.popleft()


def _is_old(then: tuple[float, pb.ReplicaSample], at: float, replica: pb.ReplicaSample) -> bool:
    """Whether enough came after a sample."""
    seconds, batches = at - then[0], replica.batches - then[1].batches
    return seconds > SECONDS_MAX or (seconds > SECONDS and batches >= BATCHES)
