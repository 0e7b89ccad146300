"""Waiting until a run has ended, or for a time, and what came of it: did requests fail, was the SLO missed?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from coordinator.telemetry.attainment import (
    RUN,
    Attainment,
    AttainmentVerdict,
    Counted,
    LatencyObjective,
    ServedAccuracy,
    Word,
    attainment_of,
    counted,
    judge_finally,
)
from coordinator.telemetry.status import Ledger, latency_of, ledger_of

if TYPE_CHECKING:
    from coordinator.fleet import Fleet
    from coordinator.fleet.state import RunningPlan
    from coordinator.mesh import Mesh
    from coordinator.telemetry.watching import Observed
    from tiermesh.v1 import telemetry_pb2 as pb

INTERVAL_S: Final = 0.5


@dataclass
class Waiting:
    """The newest samples of a run. `sources` are the devices (ids) that must have been heard to say that it is over."""

    workflow: str
    run: str
    sources: frozenset[str]
    _newest: dict[str, pb.Sample] = field(default_factory=dict[str, "pb.Sample"])
    _before: Counted | None = None

    @classmethod
    def of(cls, fleet: Fleet, workflow: str) -> Waiting:
        """To wait for a workflow that runs."""
        running = fleet.running[workflow]
        return cls(workflow, running.run, source_devices(fleet, running))

    def take(self, device: str, sample: pb.Sample | None) -> None:
        """A sample of a device (by id); without one, the device is silent and the last one holds."""
        if sample is not None:
            self._newest[device] = sample
        if self._before is None and self.is_whole:
            self._before = self.counted

    @property
    def is_whole(self) -> bool:
        """Whether every source has been heard."""
        return self.sources <= self._newest.keys()

    @property
    def ledger(self) -> Ledger:
        """The ledger of the run."""
        return ledger_of(self._newest.values(), self.workflow, self.run)

    @property
    def is_over(self) -> bool:
        """Whether everything was accepted and has ended."""
        ledger = self.ledger
        return self.is_whole and ledger.finished and not ledger.in_flight

    @property
    def _sources(self) -> list[pb.SourceSample]:
        of = (self.workflow, self.run)
        return [
            s
            for one in self._newest.values()
            for s in one.figures.sources
            if (s.workflow, s.run) == of
        ]

    @property
    def counted(self) -> Counted:
        """How the requests of the run ended so far."""
        return counted(self._sources).get(RUN, Counted())

    @property
    def meanwhile(self) -> Counted:
        """How those ended that ended since all sources were heard for the first time."""
        return self.counted.since(self._before or Counted())

    @property
    def latency_ms(self) -> dict[str, float]:
        """End to end, from accepted to confirmed, over the last minute."""
        return latency_of(self._sources).percentiles_ms()

    def attainment(self, fleet: Fleet) -> Attainment:
        """How the SLO is kept just now."""
        return attainment_of(self.workflow, fleet, self._newest.values())


@dataclass(frozen=True, kw_only=True)
class Waited:
    """What came of it. `finished`: the run is over; `timed_out`: it was not over in time."""

    workflow: str
    run: str
    finished: bool
    timed_out: bool
    ledger: Ledger
    failed: int
    verdict: AttainmentVerdict
    objectives: list[LatencyObjective]
    accuracy: ServedAccuracy
    latency_ms: dict[str, float]

    @property
    def ok(self) -> bool:
        """Whether it ended in time, with requests of which none failed, and the SLO, if one is asked, was met."""
        return not self.wrong

    @property
    def wrong(self) -> list[str]:
        """What was not as it should be, in words."""
        if self.finished and not self.ledger.accepted:
            return ["nothing was accepted: the sources found nothing to send"]
        found = ["it was not over in time"] if self.timed_out else []
        if self.failed:
            found.append(f"{self.failed:,} request{'s' * (self.failed != 1)} failed")
        if self.verdict.word is Word.MISSED:
            found.append("the SLO was missed")
        elif self.objectives and self.verdict.word is Word.NO_DATA:
            found.append("nothing is known of the SLO")
        return found


def source_devices(fleet: Fleet, running: RunningPlan) -> frozenset[str]:
    """The devices (ids) that have a source of a running workflow."""
    from coordinator.workflows.yaml_files import parse_workflow
    from tiermesh.documents.workflow import Source

    known = fleet.workflows.get(running.workflow_digest)
    stages = parse_workflow(known.text).of_kind(Source) if known is not None else []
    plan = fleet.plans[running.plan].plan
    names = {replica.device for replica in plan.replicas if replica.stage in stages}
    return frozenset(d for d in running.devices if fleet.devices[d].name in names)


async def wait(
    mesh: Mesh,
    workflow: str,
    *,
    for_s: float | None = None,
    timeout_s: float | None = None,
    show: Callable[[Waiting], None] = lambda _waiting: None,
) -> Waited:
    """Wait until a workflow's run is over, or `for_s` seconds; at most `timeout_s`. `show` sees each change.

    With `for_s` what ended meanwhile is judged, else the whole run.
    """
    waiting = Waiting.of(mesh.fleet, workflow)
    devices = {d.id: d for d in mesh.fleet.ready}
    devices |= {d: mesh.fleet.devices[d] for d in mesh.fleet.running[workflow].devices}
    timed_out = False
    watching = mesh.watch(devices=devices.values(), interval_s=INTERVAL_S)
    limits = [s for s in (for_s, timeout_s) if s is not None]
    try:
        async with asyncio.timeout(min(limits, default=None)), aclosing(watching) as observed:
            await _follow(waiting, observed, show)
    except TimeoutError:
        timed_out = for_s is None or (timeout_s is not None and timeout_s < for_s)
    return waited(waiting, mesh.fleet, timed_out=timed_out, whole=for_s is None)


async def _follow(
    waiting: Waiting, observed: AsyncIterator[Observed], show: Callable[[Waiting], None]
) -> None:
    async for one in observed:
        waiting.take(one.device.id, one.sample)
        show(waiting)
        if waiting.is_over:
            return


def waited(waiting: Waiting, fleet: Fleet, *, timed_out: bool, whole: bool) -> Waited:
    """What came of it; the `whole` run is judged, or what ended meanwhile."""
    ledger, found = waiting.ledger, waiting.counted if whole else waiting.meanwhile
    now = waiting.attainment(fleet)
    verdict, objectives = judge_finally(now.objectives, now.accuracy, found)
    return Waited(
        workflow=waiting.workflow,
        run=waiting.run,
        finished=waiting.is_over,
        timed_out=timed_out,
        ledger=ledger,
        failed=max(found.failed, ledger.errors) if whole else found.failed,
        verdict=verdict,
        objectives=objectives,
        accuracy=now.accuracy,
        latency_ms=waiting.latency_ms,
    )
