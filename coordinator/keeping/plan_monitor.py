"""What a running plan is measured to do, against what it was judged for: load, device times, the SLO."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from coordinator.fleet.state import RunningPlan
from coordinator.keeping.evidence import evidence_of
from coordinator.keeping.load_monitor import LoadMonitor
from coordinator.replanning import Policy, ReplanReason
from coordinator.replanning.causes import Cause, causes
from coordinator.replanning.corrected_prediction import (
    CorrectedPrediction,
    corrections_of,
    is_alike,
    is_close,
    while_serving,
    worth_correcting,
)
from coordinator.replanning.current_problem import asked_rate, slower, with_rate
from coordinator.replanning.load import LoadEstimate
from coordinator.replanning.state import LoadMeasured
from coordinator.replanning.switching import shortfalls
from coordinator.replanning.unexplained import devices_of, inflation
from coordinator.telemetry.drift import Drift, Key, Ratio, corrected_problem
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem
from tiermesh.documents.workflow import Workflow
from tiermesh.errors import TiermeshError
from tiermesh.v1 import telemetry_pb2 as pb

if TYPE_CHECKING:
    from coordinator.mesh import Mesh
    from coordinator.telemetry.watching import Observed

WHO: Final = "coordinator"
MEASURE_S: Final = 1.0
"""Between two comparisons of what is measured with what was planned for."""
PREDICT_S: Final = 20.0
"""Between two corrections of the prediction, but for the first."""
AS_PLANNED: Final = Ratio(1.0, 1.0, 1.0, 0)


class PlanMonitor:
    """Measures one workflow's running plan, from the samples of its devices.

    What is measured is compared with the problem that the plan was last judged for, at the load and with the device
    times that counted then.
    """

    def __init__(
        self,
        mesh: Mesh,
        name: str,
        *,
        policy: Policy,
        source_bytes: dict[str, float] | None,
    ) -> None:
        self._mesh = mesh
        self._name = name
        self._policy = policy
        self._source_bytes = source_bytes
        self._clock = asyncio.get_running_loop().time
        self._measuring: LoadMonitor | None = None
        self._counted: Mapping[str, list[tuple[float, float]]] = {}
        self._judged: tuple[Mapping[str, Ratio], bool] = ({}, False)
        self._slower: tuple[frozenset[str], float, float] = (frozenset(), 1.0, -math.inf)
        self._predicted_at = -math.inf
        self._prediction: CorrectedPrediction | None = None
        self._drifts: Mapping[Key, Drift] = {}
        self._judged_with: Mapping[Key, Drift] = {}

    @property
    def _running(self) -> RunningPlan | None:
        return self._mesh.fleet.running.get(self._name)

    @property
    def _plan(self) -> Plan | None:
        running = self._running
        return self._mesh.fleet.plans[running.plan].plan if running is not None else None

    @property
    def corrections(self) -> dict[Key, Drift]:
        """Of the device times, those that are off their profile for sure."""
        return worth_correcting(self._drifts)

    def take(self, device: str, sample: pb.Sample) -> None:
        """Take in a sample of a device (by name)."""
        if self._measuring is not None:
            self._measuring.take(device, sample)

    def forget(self) -> None:
        """Measure anew, but for how the sources' requests come."""
        if self._measuring is not None:
            self._counted = self._measuring.counted()
        self._measuring, self._prediction, self._judged = None, None, ({}, False)

    async def measure(
        self, workflow: Workflow, *, is_wanted: Callable[[], bool]
    ) -> LoadMeasured | None:
        """Compare what is measured with what the plan was judged for.

        None where nothing can be told, where the plan was judged anew meanwhile, or where it is not wanted any more.
        """
        if self._measuring is None:
            await self.judge(workflow, None, self._judged_with)
        measuring = self._measuring
        if measuring is None:
            return None
        # The first comparison imports SciPy, and each one takes milliseconds.
        drifts, ratios = await asyncio.to_thread(lambda: (measuring.drifts(), measuring.ratios()))
        matters = await self._mattering(measuring, drifts, ratios)
        if self._measuring is not measuring or not is_wanted():
            return None
        self._drifts = drifts
        load = measuring.load(least_rps(workflow))
        return LoadMeasured(self._clock(), load, matters, measuring.burn())

    async def _mattering(
        self, measuring: LoadMonitor, drifts: Mapping[Key, Drift], ratios: Mapping[str, Ratio]
    ) -> dict[str, Ratio]:
        """Where batches take longer, and what runs still does what is asked, nothing has drifted that matters."""
        low, high = self._policy.drift.leave
        off = {r: ratio for r, ratio in ratios.items() if not low <= ratio.sure <= high}
        if not any(ratio.sure > high for ratio in off.values()):
            return dict(ratios)
        if not is_close(self._judged[0], off):
            corrected = corrected_problem(measuring.problem, worth_correcting(drifts))
            falls_short = await asyncio.to_thread(shortfalls, corrected, measuring.plan)
            self._judged = off, bool(falls_short)
        if self._judged[1]:
            return dict(ratios)
        return {r: AS_PLANNED if ratio.sure > high else ratio for r, ratio in ratios.items()}

    async def correct_prediction(self) -> None:
        """Correct the prediction by what is measured, where that makes a difference, and record it."""
        measuring, now = self._measuring, self._clock()
        if measuring is None or not self._is_news(measuring, now):
            return
        made = await asyncio.to_thread(
            while_serving, measuring.problem, measuring.plan, self._drifts
        )
        if self._measuring is not measuring:
            return
        self._prediction, self._predicted_at = made, now
        said = self._mesh.fleet.expected.get(self._name)
        is_told = said is not None and said.generation == measuring.generation
        if said is not None and is_told and is_alike(said.latency_ms, made.latency_ms):
            # A journal is no record of how device times waver.
            return
        at, generation = self._mesh.now(), measuring.generation
        await self._mesh.record(
            made.event(at=at, who=WHO, workflow=self._name, generation=generation)
        )

    def _is_news(self, measuring: LoadMonitor, now: float) -> bool:
        """Whether device times differ from those of the last prediction, and that is not too recent."""
        found = corrections_of(measuring.plan, self._drifts)
        if self._prediction is None:
            return not is_close(corrections_of(measuring.plan, measuring.corrections), found)
        is_due = now >= self._predicted_at + PREDICT_S
        return is_due and not is_close(self._prediction.corrections, found)

    def causes(self, newest: Mapping[str, Observed]) -> list[Cause]:
        """What is otherwise than planned for the worse, by measurement; `newest` is what devices (by id) said last."""
        if self._measuring is None:
            return []
        evidence = evidence_of(self._mesh.fleet, self._measuring, self._drifts, newest)
        return causes(evidence)

    def rate_to_plan(
        self, workflow: Workflow, reason: ReplanReason, load: LoadEstimate | None
    ) -> float | None:
        """What to plan for where the load has changed, in requests a second; None for what the workflow says."""
        measuring = self._measuring
        if measuring is None:
            return None
        rate = asked = asked_rate(measuring.problem)
        if load is not None and load.changed:
            more = load.planning_rps(self._policy.headroom) / load.planned_rps
            rate = max(asked * more, least_rps(workflow))
        if reason is ReplanReason.SLO_MISSED:
            rate = max(rate, asked * load.ratio if load is not None else 0.0)
            rate += min(measuring.backlog / self._policy.drain_backlog_s, asked / 2)
        return rate

    async def explain_miss(self, rate: float | None, corrections: Mapping[Key, Drift]) -> None:
        """Where nothing that is measured explains why the SLO is missed, the devices must be slower than they look."""
        measuring = self._measuring
        if measuring is None:
            return
        at_rate = with_rate(measuring.problem, rate) if rate is not None else measuring.problem
        problem = self.as_slow(corrected_problem(at_rate, corrections))
        factor = await asyncio.to_thread(inflation, problem, measuring.plan)
        if factor > 1:
            known = self._slower[1] if self._is_slower else 1.0
            until = self._clock() + self._policy.unexplained_s
            self._slower = devices_of(measuring.plan), factor * known, until

    @property
    def _is_slower(self) -> bool:
        return self._clock() < self._slower[2]

    def as_slow(self, problem: Problem) -> Problem:
        """With the devices that missed the SLO without an explanation as slow as would explain it."""
        return slower(problem, *self._slower[:2]) if self._is_slower else problem

    async def judge(
        self, workflow: Workflow, rate: float | None, corrections: Mapping[Key, Drift]
    ) -> None:
        """From now on, what is measured is compared with what this plan was judged for."""

        def at_rate(problem: Problem) -> Problem:
            return with_rate(problem, rate) if rate is not None else problem

        plan, running = self._plan, self._running
        self._judged_with = corrections
        try:
            problem = await self._mesh.problem(
                workflow, source_bytes=self._source_bytes, adjust=at_rate
            )
        except TiermeshError:
            # A mesh that could not be planned for just now cannot be measured against a plan either.
            return
        if plan is not None and running is not None:
            self.forget()
            self._measuring = LoadMonitor(
                problem,
                corrections,
                plan,
                running.run,
                running.generation,
                self._policy,
                self._counted,
            )


def least_rps(workflow: Workflow) -> float:
    """The rate that is promised, in requests a second: it is planned for also while less is asked."""
    return float(workflow.slo.rate or 0.0)
