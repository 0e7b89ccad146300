"""One workflow that is kept served: told what happens, it plans again when there is a reason to."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Final

from coordinator.drift import Drift, Key, corrected_problem
from coordinator.files import parse_workflow
from coordinator.fleet import Fleet, apply, events
from coordinator.fleet.lifecycle import DeviceState, Outcome, ReplanOutcome
from coordinator.fleet.state import Device, Running
from coordinator.keeping.contingencies import Contingencies, Situation, what_serves
from coordinator.keeping.measuring import Measuring
from coordinator.keeping.unmeasured import Unmeasured
from coordinator.planning import Options
from coordinator.planning.watching import Watch
from coordinator.progress import Report
from coordinator.replanning import (
    Policy,
    Reason,
    Replan,
    State,
    decide,
    next_due,
    observe,
    overtaken,
)
from coordinator.replanning.search import Finding, search
from coordinator.replanning.situation import asked_rate, with_rate, with_running
from coordinator.replanning.state import (
    Applied,
    Asked,
    Began,
    DeviceMoved,
    Ended,
    Measured,
    Observation,
    VariantAdded,
)
from coordinator.replanning.worth import Verdict
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem
from tiermesh.documents.profile import Profile
from tiermesh.documents.workflow import Workflow
from tiermesh.errors import TiermeshError
from tiermesh.v1 import telemetry_pb2 as pb

if TYPE_CHECKING:
    from coordinator.runner import Mesh

WHO: Final = "coordinator"
MEASURE_S: Final = 2.0
"""Between two comparisons of what is measured with what was planned for."""


class Kept:
    """A workflow that is kept served. Its state changes in `observe` only; `run` acts upon it."""

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
        self.workflow = workflow
        self._unmeasured = unmeasured
        self._may_replan = may_replan
        self._options = options
        self._policy = policy
        self._source_bytes = source_bytes
        self._report = report
        self._clock = asyncio.get_running_loop().time
        self._changed = asyncio.Event()
        self._states: dict[str, DeviceState] = {}
        self._stale: set[str] = set()
        self._seen: Running | None = None
        self._profiles: Mapping[str, Mapping[str, Profile]] = {}
        self._measuring: Measuring | None = None
        self._drifts: Mapping[Key, Drift] = {}
        self._corrections: Mapping[Key, Drift] = {}
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
                        )
                    )
        self._look_at_profiles()

    def _is_news(self, device: Device) -> bool:
        """Of a device that is seen for the first time: whether the running plan was not made with it as it is."""
        if self._running is None:
            return False
        if device.name in self._state.used:
            return device.state is not DeviceState.READY
        return f"device {device.name}" not in self._inputs

    @property
    def _running(self) -> Running | None:
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
        self._seen, self._stale, self._measuring = running, set(), None
        if running is not None and running.workflow_digest != self.workflow.digest:
            source = self._mesh.fleet.workflows[running.workflow_digest]
            self.workflow = parse_workflow(source.text)
        if self._state.under_way is None:
            self._observe(Applied(self._clock(), self._used(), self._places()))

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
        fresh = {
            f"{profile.model}/{profile.variant}"
            for device_class, of_class in fleet.profiles.items()
            for digest, profile in of_class.items()
            if digest not in self._profiles.get(device_class, {})
        }
        if self._profiles and fresh and self._running is not None:
            why = f"{', '.join(sorted(fresh))} can be chosen from"
            self._observe(VariantAdded(self._clock(), why))
        self._profiles = fleet.profiles

    def take(self, device: Device, sample: pb.Sample) -> None:
        """Take in a sample: what it measures, and which generation the device serves."""
        if self._measuring is not None:
            self._measuring.take(device.id, sample)
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
        plan, running = self._plan, self._running
        if plan is None or running is None or self._state.under_way is not None:
            return
        if self._measuring is None:
            await self._judge(None, self._corrections)
        measuring = self._measuring
        if measuring is None:
            return
        # The first comparison imports SciPy, and each one takes milliseconds.
        self._drifts = await asyncio.to_thread(measuring.drifts)
        load = measuring.load()
        if load is not None:
            load = max(load, self._least_rps() / asked_rate(measuring.problem))
        self._observe(Measured(self._clock(), load, measuring.ratios(self._drifts)))

    def _least_rps(self) -> float:
        """The rate that is promised is planned for also while less is asked."""
        return float(self.workflow.slo.rate or 0.0)

    def _at_rest(self) -> Situation | None:
        """The mesh as it is while nothing is to be done, so that there is time to plan ahead."""
        fleet, serves = self._mesh.fleet, what_serves(self._mesh.fleet, self.name)
        is_searching = self._state.under_way is not None and not self._is_rolling_out
        if serves is None or is_searching or not self._may_replan():
            return None
        if self._unmeasured.at_work or decide(self._state, self._clock()) is not None:
            return None
        plan = fleet.plans[serves.plan].plan
        adjust = self._adjustment(self._rate(), self._worth_correcting(), plan)
        return Situation.of(fleet, serves, self.workflow, adjust)

    # --- what is done about it -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Replan whenever it is due, until this is cancelled."""
        if self._running is None:
            await self._unmeasured.measure(self.workflow, self._mesh.fleet.ready)
            self.ask("it does not run yet")
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

    async def _wait(self) -> None:
        when = next_due(self._state)
        seconds = MEASURE_S if when is None else min(max(when - self._clock(), 0.05), MEASURE_S)
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _replan(self, due: Replan) -> None:
        running = self._running
        before = running.plan if running is not None else ""
        said = {"workflow": self.name, "reason": due.reason.value, "why": due.why, "before": before}
        self._observe(Began(self._clock(), due.reason))
        outcome, text, after = ReplanOutcome.FAILED, "interrupted", ""
        try:
            if due.reason is not Reason.OPERATOR and not self._may_replan():
                outcome, text = ReplanOutcome.ADVISED, "planning again by itself is switched off"
            else:
                generation = running.generation if running is not None else 0
                await self._mesh.record(
                    events.ReplanStarted(
                        at=self._mesh.now(), who=WHO, generation=generation, **said
                    )
                )
                outcome, text, after = await self._found_and_applied()
        except TiermeshError as error:
            text = str(error)
        except Exception as error:  # noqa: BLE001 - a fault of a solver must not end what keeps the mesh served
            text = f"{type(error).__name__}: {error}"
        finally:
            self._seen, self._stale = self._running, set()
            self._observe(Ended(self._clock(), outcome, self._used(), self._places()))
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

    async def _found_and_applied(self) -> tuple[ReplanOutcome, str, str]:
        """How it ended, why so, and the digest of the plan that was found."""
        running, rate = self._running, self._rate()
        corrections = self._worth_correcting()
        adjust = self._adjustment(rate, corrections, self._plan)
        found = await self._found(adjust)
        if found.plan is None and (needed := self._on_probation()):
            found = await self._trusting(needed, found.verdict.why, adjust)
        if found.plan is None:
            return ReplanOutcome.INFEASIBLE, found.verdict.why, ""
        if self._running is not running or self._is_rolling_out:
            return ReplanOutcome.KEPT, "an operator has rolled a plan out meanwhile", ""
        digest = found.plan.digest
        if not found.verdict.replace:
            await self._judge(rate, corrections)
            return ReplanOutcome.KEPT, found.verdict.why, digest
        await self._mesh.plan_made(found.plan)
        applied = await self._mesh.apply(found.plan, workflow=self.workflow, report=self._report)
        if applied.outcome is not Outcome.COMMITTED:
            failures = "; ".join(f"{device}: {why}" for device, why in applied.failures.items())
            return ReplanOutcome.FAILED, f"the rollout was {applied.outcome}: {failures}", digest
        await self._judge(rate, corrections)
        return (*_ended_well(found), digest)

    def _adjustment(
        self, rate: float | None, corrections: Mapping[Key, Drift], running: Plan | None
    ) -> Callable[[Problem], Problem]:
        """What makes a problem that of now: the load, device times as they are measured, and what runs."""

        def adjust(problem: Problem) -> Problem:
            at_rate = with_rate(problem, rate) if rate is not None else problem
            corrected = corrected_problem(at_rate, corrections)
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
            return Finding(None, Verdict(False, str(error)))
        if self._state.failed:
            ahead = self._contingencies.finding(problem)
            if ahead is not None:
                return ahead
        look = partial(search, stale=frozenset(self._stale))
        # Read in the solver's thread: the state is replaced, never changed.
        watch = Watch(stopped=lambda: overtaken(self._state))
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
            raise TiermeshError("a device has failed again while a plan was sought")
        await self._mesh.record(*trusted)
        return found

    def _rate(self) -> float | None:
        """What to plan for where the load has changed, in requests a second; None for what the workflow says."""
        measuring = self._measuring
        if measuring is None:
            return None
        offered = measuring.offered_rps() if self._state.load.out else None
        if offered is None:
            return asked_rate(measuring.problem)
        return max(offered * self._policy.headroom, self._least_rps())

    def _worth_correcting(self) -> dict[Key, Drift]:
        return {
            k: d for k, d in self._drifts.items() if d.overall is not None and d.overall.differs()
        }

    async def _judge(self, rate: float | None, corrections: Mapping[Key, Drift]) -> None:
        """From now on, what is measured is compared with what this plan was judged for."""

        def at_rate(problem: Problem) -> Problem:
            return with_rate(problem, rate) if rate is not None else problem

        plan, running = self._plan, self._running
        self._corrections = corrections
        try:
            problem = await self._mesh.problem(
                self.workflow, source_bytes=self._source_bytes, adjust=at_rate
            )
        except TiermeshError:
            # A mesh that could not be planned for just now cannot be measured against a plan either.
            return
        if plan is not None and running is not None:
            self._measuring = Measuring(problem, corrections, plan, running.run, running.generation)


def _ended_well(found: Finding) -> tuple[ReplanOutcome, str]:
    if found.degraded:
        return ReplanOutcome.DEGRADED, found.degraded
    return ReplanOutcome.REPLACED, found.verdict.why
