"""The controller of one workflow: told what happens, it plans again when there is a reason to."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Final

from coordinator.fleet import Fleet, apply, events
from coordinator.fleet.lifecycle import DeviceState, ReplanOutcome, RolloutOutcome
from coordinator.fleet.state import Device, RunningPlan
from coordinator.keeping.contingencies import Contingencies, Situation, what_serves
from coordinator.keeping.missing_profiles import FIRST_PLAN_S, Unmeasured
from coordinator.keeping.plan_monitor import MEASURE_S, PlanMonitor
from coordinator.planning import Options, solve
from coordinator.planning.search_progress import SearchObserver
from coordinator.progress import Report
from coordinator.replanning import (
    Policy,
    ReplanDue,
    ReplanReason,
    State,
    decide,
    next_due,
    observe,
    overtaken,
)
from coordinator.replanning.causes import Cause
from coordinator.replanning.current_problem import with_rate, with_running
from coordinator.replanning.search import Finding, search
from coordinator.replanning.state import (
    Asked,
    DeviceMoved,
    Observation,
    OperatorApplied,
    ReplanBegun,
    ReplanFinished,
    VariantAdded,
)
from coordinator.replanning.switching import SwitchDecision
from coordinator.telemetry.drift import Drift, Key, corrected_problem
from coordinator.workflows.yaml_files import parse_workflow
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem
from tiermesh.documents.profile import Profile
from tiermesh.documents.workflow import Model, Workflow
from tiermesh.errors import TiermeshError
from tiermesh.v1 import telemetry_pb2 as pb

if TYPE_CHECKING:
    from coordinator.mesh import Mesh
    from coordinator.telemetry.watching import Observed

WHO: Final = "coordinator"
MEASURE_BEFORE_S: Final = 1.0
"""How long each replica is run on its samples before it serves, unless a lost device is waited for."""
PLANNABLE_S: Final = 2.0
"""For a look whether there is any plan; the best one is sought afterwards."""


class WorkflowController:
    """Keeps one workflow served. Its state changes in `observe` only; `run` acts upon it."""

    def __init__(
        self,
        mesh: Mesh,
        workflow: Workflow,
        *,
        unmeasured: Unmeasured,
        may_replan: Callable[[], bool],
        options: Options,
        policy: Policy,
        source_bytes: dict[str, float] | None,
        report: Report,
    ) -> None:
        self.name = workflow.workflow
        self._mesh = mesh
        self.workflow = self._wanted = workflow
        self._unmeasured = unmeasured
        self._may_replan = may_replan
        self._options = options
        self._policy = policy
        self._source_bytes = source_bytes
        self._report = report
        self.has_begun = False
        """What was measured first was enough for a plan, or all that there is."""
        self._clock = asyncio.get_running_loop().time
        self._changed = asyncio.Event()
        self._states: dict[str, DeviceState] = {}
        self._stale: set[str] = set()
        self._seen: RunningPlan | None = None
        self._profiles: Mapping[str, Mapping[str, Profile]] = {}
        self._considered: frozenset[str] = frozenset()
        self._monitor = PlanMonitor(mesh, self.name, policy=policy, source_bytes=source_bytes)
        self._state = State(policy=policy)
        self._contingencies = Contingencies(
            mesh, self._at_rest, options=options, policy=policy, source_bytes=source_bytes
        )

    # --- what happens --------------------------------------------------------------------------------------------

    def ask(self, why: str) -> None:
        """Somebody wants a new plan."""
        self._observe(Asked(self._clock(), why))

    def _observe(self, observation: Observation) -> None:
        self._state = observe(observation, self._state)
        self._changed.set()

    def look(self) -> None:
        """See what has changed in the fleet."""
        self._look_at_plan()
        for device in self._mesh.fleet.devices.values():
            known = self._states.get(device.id)
            if known is not device.state:
                self._states[device.id] = device.state
                if known is not None or self._is_news(device):
                    self._observe(
                        DeviceMoved(
                            self._clock(),
                            device.name,
                            device.state,
                            device.why,
                            probation=device.is_on_probation,
                            considered=self._is_considered(device),
                        )
                    )
        self._look_at_profiles()

    def _is_news(self, device: Device) -> bool:
        """Of a device that is seen for the first time: whether the running plan was not made with it as it is."""
        if self._running is None:
            return False
        if device.name in self._state.used:
            return device.state is not DeviceState.READY
        return not self._is_considered(device)

    def _is_considered(self, device: Device) -> bool:
        """Whether the running plan was made with a device, or kept with it."""
        return f"device {device.name}" in self._inputs or device.name in self._considered

    @property
    def _running(self) -> RunningPlan | None:
        return self._mesh.fleet.running.get(self.name)

    @property
    def _plan(self) -> Plan | None:
        running = self._running
        return self._mesh.fleet.plans[running.plan].plan if running is not None else None

    @property
    def _inputs(self) -> Mapping[str, object]:
        running = self._running
        return self._mesh.fleet.plans[running.plan].inputs if running is not None else {}

    def _look_at_plan(self) -> None:
        """A plan that this did not roll out is an operator's: it stands until something happens."""
        running = self._running
        if running is self._seen:
            return
        self._seen, self._stale = running, set()
        self._monitor.forget()
        if running is not None and running.workflow_digest != self.workflow.digest:
            source = self._mesh.fleet.workflows[running.workflow_digest]
            self.workflow = parse_workflow(source.text)
        if self._state.under_way is None:
            self._considered = frozenset()
            self._observe(OperatorApplied(self._clock(), self._used(), self._places()))

    def _used(self) -> frozenset[str]:
        return frozenset[str]().union(*self._places())

    def _places(self) -> frozenset[frozenset[str]]:
        """The devices of each stage, by name."""
        plan, places = self._plan, defaultdict[str, set[str]](set)
        for replica in plan.replicas if plan is not None else ():
            places[replica.stage].add(replica.device)
        return frozenset(map(frozenset, places.values()))

    def _look_at_profiles(self) -> None:
        fleet = self._mesh.fleet
        # What comes one by one while devices measure is looked at together.
        if fleet.profiles is self._profiles or self._unmeasured.at_work:
            return
        models = {
            stage.model for stage in self.workflow.stages.values() if isinstance(stage, Model)
        }
        fresh = {
            f"{profile.model}/{profile.variant}"
            for device_class, of_class in fleet.profiles.items()
            for digest, profile in of_class.items()
            if digest not in self._profiles.get(device_class, {})
            and profile.model in models
            and not profile.cannot_run
        }
        if fresh and self._running is None and self.has_begun:
            self.ask("it does not run yet, and more was measured")
        if self._profiles and fresh and self._running is not None:
            why = f"{', '.join(sorted(fresh))} can be chosen from"
            self._observe(VariantAdded(self._clock(), why))
        self._profiles = fleet.profiles

    def take(self, device: Device, sample: pb.Sample) -> None:
        """Take in a sample: what it measures, and which generation the device serves."""
        self._monitor.take(device.name, sample)
        running = self._running
        if running is None or device.id not in running.devices or self._is_rolling_out:
            return
        serves = sample.generations.get(self.name, 0)
        is_ready = self._states.get(device.id) is DeviceState.READY
        if is_ready and serves < running.generation and device.name not in self._stale:
            self._stale.add(device.name)
            why = f"it serves generation {serves}, not {running.generation}"
            at = self._clock()
            self._observe(DeviceMoved(at, device.name, DeviceState.READY, why, stale=True))

    def should_stop(self, device: Device, sample: pb.Sample) -> int | None:
        """The generation to name when a device, back after a failure, serves one that has been replaced without it."""
        running, serves = self._running, sample.generations.get(self.name, 0)
        if running is None or not serves or self._is_rolling_out:
            return None
        left_out = device.id not in running.devices and serves < running.generation
        return running.generation if left_out else None

    @property
    def _is_rolling_out(self) -> bool:
        rollout = self._mesh.fleet.rollouts.get(self.name)
        return rollout is not None and rollout.outcome is None

    async def measure(self) -> None:
        """Compare what is measured with what was planned for."""
        if self._running is None or self._state.under_way is not None:
            return
        measured = await self._monitor.measure(
            self.workflow, is_wanted=lambda: self._state.under_way is None
        )
        if measured is not None:
            self._observe(measured)
            await self._monitor.correct_prediction()

    def causes(self, newest: Mapping[str, Observed]) -> list[Cause]:
        """What is otherwise than planned for the worse, by measurement; `newest` is what devices (by id) said last."""
        return self._monitor.causes(newest) if self._running is not None else []

    def _at_rest(self) -> Situation | None:
        """The mesh as it is while nothing is to be done, so that there is time to plan ahead."""
        fleet, serves = self._mesh.fleet, what_serves(self._mesh.fleet, self.name)
        is_searching = self._state.under_way is not None and not self._is_rolling_out
        if serves is None or is_searching or not self._may_replan():
            return None
        if self._unmeasured.at_work or decide(self._state, self._clock()) is not None:
            return None
        plan = fleet.plans[serves.plan].plan
        corrections = self._monitor.corrections
        adjust = self._adjustment(self._rate(ReplanReason.DEVICE_FAILED), corrections, plan)
        return Situation.of(fleet, serves, self.workflow, adjust)

    # --- what is done about it -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Replan whenever it is due, until this is cancelled."""
        if self._running is None:
            await self._unmeasured.measure_first(
                self.workflow, self._is_plannable, patience_s=FIRST_PLAN_S
            )
            self.ask("it does not run yet")
        elif self._running.workflow_digest != self._wanted.digest:
            # Looking at what runs has put its workflow in place of the file that was given.
            self.workflow = self._wanted
            self.ask("its file has changed since it was rolled out")
        self.has_begun = True
        async with asyncio.TaskGroup() as group:
            group.create_task(self._contingencies.run())
            await self._keep_replanning()

    async def _keep_replanning(self) -> None:
        while True:
            self._changed.clear()
            self.look()
            due = decide(self._state, self._clock())
            if due is not None and not self._is_rolling_out:
                self._contingencies.interrupt()
                await self._replan(due)
                continue
            await self._wait()

    async def _is_plannable(self) -> bool:
        """Whether what is measured by now is enough for a plan that meets every ask."""
        options = replace(self._options, time_limit_s=PLANNABLE_S)
        try:
            problem = await self._mesh.problem(self.workflow, source_bytes=self._source_bytes)
            await asyncio.to_thread(solve, problem, options, explain=False)
        except TiermeshError:
            return False
        return True

    async def _wait(self) -> None:
        when = next_due(self._state)
        seconds = MEASURE_S if when is None else min(max(when - self._clock(), 0.05), MEASURE_S)
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _replan(self, due: ReplanDue) -> None:
        running = self._running
        before = running.plan if running is not None else ""
        said = {"workflow": self.name, "reason": due.reason.value, "why": due.why, "before": before}
        self._observe(ReplanBegun(self._clock(), due.reason))
        outcome, text, after = ReplanOutcome.FAILED, "interrupted", ""
        try:
            if due.reason is not ReplanReason.OPERATOR and not self._may_replan():
                outcome, text = ReplanOutcome.ADVISED, "automatic replanning is off"
            else:
                generation = running.generation if running is not None else 0
                await self._mesh.record(
                    events.ReplanStarted(
                        at=self._mesh.now(), who=WHO, generation=generation, **said
                    )
                )
                outcome, text, after = await self._found_and_applied(due.reason)
        except TiermeshError as error:
            text = str(error)
        except Exception as error:  # noqa: BLE001 - a fault of a solver must not end what keeps the mesh served
            text = f"{type(error).__name__}: {error}"
        finally:
            self._seen, self._stale = self._running, set()
            self._observe(ReplanFinished(self._clock(), outcome, self._used(), self._places()))
            # A device that only the new plan uses may have failed since it switched: look at all anew.
            self._states.clear()
            generation = self._running.generation if self._running is not None else 0
            await self._mesh.record(
                events.ReplanEnded(
                    at=self._mesh.now(),
                    who=WHO,
                    outcome=outcome,
                    text=text,
                    after=after,
                    generation=generation,
                    **said,
                )
            )

    async def _found_and_applied(self, reason: ReplanReason) -> tuple[ReplanOutcome, str, str]:
        """How it ended, why so, and the digest of the plan that was found."""
        running, rate = self._running, self._rate(reason)
        corrections = self._monitor.corrections
        if reason is ReplanReason.SLO_MISSED:
            await self._monitor.explain_miss(rate, corrections)
        adjust = self._adjustment(rate, corrections, self._plan)
        found = await self._found(adjust)
        if found.plan is None and (needed := self._on_probation()):
            found = await self._trusting(needed, found.verdict.why, adjust)
        if found.plan is None:
            return ReplanOutcome.INFEASIBLE, found.verdict.why, ""
        if self._running is not running or self._is_rolling_out:
            return ReplanOutcome.KEPT, "an operator has applied another plan meanwhile", ""
        digest, was_changed = found.plan.digest, self._is_changed
        if not found.verdict.replace and not was_changed:
            await self._monitor.judge(self.workflow, rate, corrections)
            return ReplanOutcome.KEPT, found.verdict.why, digest
        await self._mesh.plan_made(found.plan)
        applied = await self._mesh.apply(
            found.plan,
            workflow=self.workflow,
            measure_s=0.0 if reason is ReplanReason.DEVICE_FAILED else MEASURE_BEFORE_S,
            report=self._report,
        )
        if applied.outcome is not RolloutOutcome.COMMITTED:
            failures = "; ".join(f"{device}: {why}" for device, why in applied.failures.items())
            return ReplanOutcome.FAILED, f"the rollout was {applied.outcome}: {failures}", digest
        await self._monitor.judge(self.workflow, rate, corrections)
        return (*_ended_well(found, due_to_file=was_changed), digest)

    @property
    def _is_changed(self) -> bool:
        """Whether what runs is of another version of the workflow: it is replaced, however good it is."""
        running = self._running
        return running is not None and running.workflow_digest != self.workflow.digest

    def _adjustment(
        self, rate: float | None, corrections: Mapping[Key, Drift], running: Plan | None
    ) -> Callable[[Problem], Problem]:
        """What makes a problem that of now: the load, device times as they are measured, and what runs."""

        def adjust(problem: Problem) -> Problem:
            at_rate = with_rate(problem, rate) if rate is not None else problem
            corrected = self._monitor.as_slow(corrected_problem(at_rate, corrections))
            return with_running(corrected, running, self._policy)

        return adjust

    async def _found(
        self, adjust: Callable[[Problem], Problem], fleet: Fleet | None = None
    ) -> Finding:
        """The best plan on the ready devices, or those of `fleet`; without one, why there is none."""
        try:
            problem = await self._mesh.problem(
                self.workflow, source_bytes=self._source_bytes, adjust=adjust, fleet=fleet
            )
        except TiermeshError as error:
            # Such as a stage whose only device is gone: trying again is of no use before something changes.
            return Finding(None, SwitchDecision(False, str(error)))
        if self._state.failed:
            ahead = self._contingencies.finding(problem)
            if ahead is not None:
                return ahead
        look = partial(search, stale=frozenset(self._stale))
        self._considered = frozenset(device.name for device in problem.devices)
        # Read in the solver's thread: the state is replaced, never changed.
        watch = SearchObserver(stopped=lambda: overtaken(self._state))
        options = replace(self._options, watch=watch)
        return await asyncio.to_thread(look, problem, self._plan, options, self._policy)

    def _on_probation(self) -> list[Device]:
        return [d for d in self._mesh.fleet.devices.values() if d.is_on_probation]

    async def _trusting(
        self, needed: list[Device], why: str, adjust: Callable[[Problem], Problem]
    ) -> Finding:
        """A plan with devices that have yet to prove that they stay; they are ready at once if there is one."""
        told = f"it is needed before it has proved that it stays: {why}"
        at = self._mesh.now()
        trusted = [events.DeviceReturned(at=at, who=WHO, device=d.id, why=told) for d in needed]
        fleet = reduce(lambda fleet, event: apply(event, fleet), trusted, self._mesh.fleet)
        found = await self._found(adjust, fleet)
        if found.plan is None:
            return found
        still = {device.id for device in self._on_probation()}
        if not still.issuperset(device.id for device in needed):
            raise TiermeshError("another device failed while planning")
        await self._mesh.record(*trusted)
        return found

    def _rate(self, reason: ReplanReason) -> float | None:
        return self._monitor.rate_to_plan(self.workflow, reason, self._state.load)


def _ended_well(found: Finding, *, due_to_file: bool) -> tuple[ReplanOutcome, str]:
    if found.degraded:
        return ReplanOutcome.DEGRADED, found.degraded
    if due_to_file and not found.verdict.replace:
        return ReplanOutcome.REPLACED, "the workflow has changed"
    return ReplanOutcome.REPLACED, found.verdict.why
