"""Load and device time of one workflow, measured against what its plan was made for. Pure: samples in, ratios out."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from coordinator.drift import Drift, Key, Ratio, drift, means_of, windows
from coordinator.replanning.situation import asked_rate
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem
from tiermesh.v1 import telemetry_pb2 as pb

LOAD_WINDOW_S: Final = 5.0
"""Over which arrivals are counted."""
DRIFT_WINDOW_S: Final = 60.0
DRIFT_STEP_S: Final = 1.0
"""Samples that are closer than this tell nothing more about device time."""
FEWEST_BATCHES: Final = 20
BACKLOG_S: Final = 2.0
"""Sources that wait for answers longer than this beyond what was predicted are held back by the mesh."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What a source said at a time of its device's clock; `offered` is what it accepted, and what waits for that."""

    at: float
    offered: int
    in_flight: int
    finished: bool


@dataclass
class Measuring:
    """The newest samples of a workflow's sources and replicas, since its plan serves.

    `problem` is the one that the plan was made, or last judged, for, with the profiles as they were measured;
    `corrections` is what they were corrected by. Sources are by (device, stage).
    """

    problem: Problem
    corrections: Mapping[Key, Drift]
    plan: Plan
    run: str
    generation: int
    _sources: dict[tuple[str, str], deque[Arrivals]] = field(
        default_factory=lambda: defaultdict(deque)
    )
    _replicas: dict[str, deque[tuple[float, pb.ReplicaSample]]] = field(
        default_factory=lambda: defaultdict(deque)
    )

    def take(self, device: str, sample: pb.Sample) -> None:
        """Take in a sample of a device (by id)."""
        for source in sample.sources:
            if (source.workflow, source.run) == (self.problem.name, self.run):
                offered = source.accepted + source.waiting
                said = Arrivals(sample.at, offered, source.in_flight, source.finished)
                kept = self._sources[device, source.stage]
                if kept and (kept[-1].offered > said.offered or kept[-1].at > said.at):
                    # Another run, or an agent that started again under a clock that was set back.
                    kept.clear()
                kept.append(said)
                while kept[0].at < sample.at - LOAD_WINDOW_S:
                    kept.popleft()
        for replica in sample.replicas:
            if (replica.workflow, replica.generation) == (self.problem.name, self.generation):
                _keep(self._replicas[replica.replica], sample.at, replica)

    def offered_rps(self) -> float | None:
        """Requests a second over the last window; None where it cannot be told."""
        rates: defaultdict[str, float] = defaultdict(float)
        for (_, stage), kept in self._sources.items():
            if kept[-1].finished:
                continue
            seconds = kept[-1].at - kept[0].at
            if seconds < LOAD_WINDOW_S / 2:
                return None
            rates[stage] += (kept[-1].offered - kept[0].offered) / seconds
        return max(rates.values(), default=None)

    def load(self) -> float | None:
        """Offered over planned; None too where requests pile up, so that sources are held back."""
        offered, planned = self.offered_rps(), asked_rate(self.problem)
        if offered is None or planned <= 0:
            return None
        return None if offered < planned and self._backlogged(planned) else offered / planned

    def _backlogged(self, planned: float) -> bool:
        in_flight = sum(kept[-1].in_flight for kept in self._sources.values())
        expected_s = max(self.plan.predicted.latency_ms.values(), default=0.0) / 1e3
        return in_flight > 1 + planned * (expected_s + BACKLOG_S)

    def drifts(self) -> dict[Key, Drift]:
        """How device times compare with the profiles, where enough batches tell; else as was known before."""
        profiles = {(p.stage, p.variant, p.device): p for p in self.problem.profiles}
        found: dict[Key, Drift] = dict(self.corrections)
        for replica in self.plan.replicas:
            key = (replica.stage, replica.variant, replica.device)
            kept, profile = self._replicas.get(replica.id), profiles.get(key)
            if not kept or profile is None:
                continue
            one = drift(windows([sample for _, sample in kept]), means_of(profile.batches))
            if one.overall is not None and one.overall.batches >= FEWEST_BATCHES:
                found[key] = one
        return found

    def ratios(self, drifts: Mapping[Key, Drift]) -> dict[str, float]:
        """By replica, measured over planned device time: of the plausible ratios the one nearest to 1."""
        found: dict[str, float] = {}
        for replica in self.plan.replicas:
            key = (replica.stage, replica.variant, replica.device)
            measured, planned = drifts.get(key), self.corrections.get(key)
            if measured is not None and measured.overall is not None:
                of_planned = planned.overall if planned is not None else None
                found[replica.id] = _sure(
                    measured.overall, of_planned.ratio if of_planned is not None else 1.0
                )
        return found


def _keep(
    kept: deque[tuple[float, pb.ReplicaSample]], at: float, replica: pb.ReplicaSample
) -> None:
    if kept and kept[-1][0] > at:
        kept.clear()
    if kept and at - kept[-1][0] < DRIFT_STEP_S:
        return
    kept.append((at, replica))
    while kept[0][0] < at - DRIFT_WINDOW_S:
        kept.popleft()


def _sure(measured: Ratio, planned: float) -> float:
    low, high = measured.low / planned, measured.high / planned
    return max(low, 1.0) if measured.ratio > planned else min(high, 1.0)
