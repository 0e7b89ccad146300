"""A mesh as the coordinator's keeping sees it: a fleet, problems, rollouts; with simulated machines behind it.

`World` takes the place of `coordinator.mesh.Mesh` for the `WorkflowController`, which is the product's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import reduce
from typing import Any, Final

from msgspec.structs import replace

from bench.attainment.machine import Machine
from bench.attainment.settings import Setting
from bench.attainment.standing import Distribution, Folder, Standing
from bench.attainment.systems import System
from bench.attainment.timeline import Timeline
from bench.attainment.truth import Truth
from bench.attainment.wires import Wires
from coordinator.fleet import Fleet, apply, events
from coordinator.fleet.lifecycle import Phase, RolloutOutcome
from coordinator.fleet.state import Catalogue, Description
from coordinator.rollout.assignment import assignments
from coordinator.rollout.rollouts import RolloutResult
from coordinator.workflows.yaml_files import parse_workflow
from tiermesh.documents.fingerprint import Cpu, Fingerprint
from tiermesh.documents.plan import Plan, Replica
from tiermesh.documents.problem import Problem
from tiermesh.documents.variant import Artifact, Bundle, Variant
from tiermesh.documents.workflow import Workflow

RUN: Final = "run"
WHO: Final = "bench"
SWITCH_S: Final = 0.02
_ARTIFACT: Final = Artifact(digest="sha256:" + "0" * 64, size_bytes=1)
_BUNDLE: Final = Bundle(artifact=_ARTIFACT, entry="code:Class")


class World:
    """One mesh in simulated time. `plans` are those that served, with the seconds since when."""

    def __init__(
        self, setting: Setting, system: System, timeline: Timeline, truth: Truth, begun_at: float
    ) -> None:
        self.setting = setting
        self.system = system
        self.timeline = timeline
        self.truth = truth
        self.fleet = Fleet()
        self.told: list[events.Event] = []
        self.plans: list[tuple[float, Plan]] = []
        self.may_lose = False
        self.sessions = Standing()
        self.distribution = Distribution()
        self.workflows = Folder()
        self.changed: Callable[[], None] = lambda: None
        self._begun_at = begun_at
        self.wires = Wires(timeline, setting.problem)
        self.workflow: Workflow = parse_workflow(setting.workflow)
        names = [d.name for d in setting.problem.devices]
        self.machines = {
            name: Machine(name, timeline, self.wires, truth, tick_s=setting.tick_s)
            for name in names
        }
        for machine in self.machines.values():
            machine.peers = self.machines
        self._catalogue = _catalogue(setting.problem)
        self._take(*(_described(d.name, self.now()) for d in setting.problem.devices))
        self._take(_recorded(self.workflow, setting.workflow, self.now()))

    # What the coordinator asks of its mesh

    def now(self) -> float:
        """Unix seconds by the coordinator's clock."""
        return self._begun_at + self.timeline.now

    def _take(self, *happened: events.Event) -> None:
        self.told += happened
        self.fleet = reduce(lambda fleet, event: apply(event, fleet), happened, self.fleet)

    async def record(self, *happened: events.Event) -> None:
        """Something has happened: whoever keeps the workflow looks at it."""
        self._take(*happened)
        asyncio.get_running_loop().call_soon(self.changed)

    async def note(self, text: str) -> None:
        """Something that people should see."""
        self._take(events.OperatorNoted(at=self.now(), who=WHO, text=text))

    async def problem(
        self,
        workflow: Workflow,
        *,
        adjust: Callable[[Problem], Problem] | None = None,
        fleet: Fleet | None = None,
        **_: Any,
    ) -> Problem:
        """The planning problem on the ready devices."""
        del workflow
        ready = {device.name for device in (fleet or self.fleet).ready}
        problem = restricted(self.setting.problem, ready)
        return adjust(problem) if adjust is not None else problem

    async def plan_made(self, plan: Plan) -> None:
        """A plan was computed."""
        self._take(self._made(plan))

    def _made(self, plan: Plan) -> events.PlanMade:
        inputs: dict[str, Any] = {f"device {name}": {} for name in self.machines}
        return events.PlanMade(
            at=self.now(), who=WHO, workflow=plan.workflow, plan=plan, inputs=inputs
        )

    async def apply(self, plan: Plan, **_: Any) -> RolloutResult:
        """Roll a plan out: load and warm what is new, then switch all devices."""
        started = self._started(plan)
        await self.record(started)
        await asyncio.sleep(self._rollout_s(plan))
        down = [d for d in started.devices if not self.machines[d].is_up]
        if down:
            return await self._undone(started, down)
        self._switch(plan, started)
        self.changed()
        return self._applied(started, RolloutOutcome.COMMITTED, {})

    def _rollout_s(self, plan: Plan) -> float:
        """Models that are loaded need not be loaded again."""
        loaded = self.sessions.loaded | {place(r) for r in self.plans[-1][1].replicas}
        starts = [r for r in plan.replicas if r.variant is not None and place(r) not in loaded]
        return self.setting.rollout_s if starts else self.setting.switch_s

    async def catalogue(self, workflow: Workflow) -> Catalogue:
        """What the workflow is served with."""
        del workflow
        return self._catalogue

    def begin(self, plan: Plan) -> None:
        """A plan serves, at once."""
        self._take(self._made(plan))
        started = self._started(plan)
        self._take(started)
        self._switch(plan, started)

    def _started(self, plan: Plan) -> events.RolloutStarted:
        running = self.fleet.running.get(plan.workflow)
        devices = list(dict.fromkeys(r.device for r in plan.replicas))
        return events.RolloutStarted(
            at=self.now(),
            who=WHO,
            workflow=plan.workflow,
            generation=self.fleet.next_generation(plan.workflow),
            plan=plan.digest,
            workflow_digest=self.workflow.digest,
            run=RUN,
            purpose="apply",
            catalogue=self._catalogue,
            devices=devices,
            leaving=[d for d in running.devices if d not in devices] if running else [],
        )

    def _switch(self, plan: Plan, started: events.RolloutStarted) -> None:
        before = self.fleet.running.get(plan.workflow)
        cut = assignments(
            plan,
            self.workflow,
            self._catalogue,
            {d.name: d for d in self.fleet.devices.values()},
            generation=started.generation,
            run=RUN,
            before=self.fleet.plans[before.plan].plan if before else None,
        )
        parts = {d: replace(a, rings=self.system.rings) for d, a in cut.items()}
        for device, part in parts.items():
            self.machines[device].prepare(part)
        for device, part in parts.items():
            self.machines[device].commit(part)
        for device in started.leaving:
            self.machines[device].stop()
        self.plans.append((self.timeline.now, plan))
        self._take(*self._steps(started))

    def _steps(self, started: events.RolloutStarted) -> list[events.Event]:
        told: list[events.Event] = []
        for kind in (events.ArtifactsPushed, events.RolloutPrepared, events.RolloutCommitted):
            told += [self._step(kind, started, device) for device in started.devices]
        told += [self._step(events.RolloutStopped, started, d) for d in started.leaving]
        return told

    def _step(
        self, kind: Callable[..., events.Event], started: events.RolloutStarted, device: str
    ) -> events.Event:
        return kind(
            at=self.now(),
            who=device,
            workflow=started.workflow,
            generation=started.generation,
            device=device,
        )

    async def _undone(self, started: events.RolloutStarted, down: Collection[str]) -> RolloutResult:
        why = "it was lost"
        cancelled = events.RolloutCancelled(
            at=self.now(),
            who=WHO,
            workflow=started.workflow,
            generation=started.generation,
            why=why,
        )
        aborted = [self._step(events.RolloutAborted, started, d) for d in started.devices]
        await self.record(cancelled, *aborted)
        return self._applied(started, RolloutOutcome.ABORTED, dict.fromkeys(down, why))

    def _applied(
        self, started: events.RolloutStarted, outcome: RolloutOutcome, failures: dict[str, str]
    ) -> RolloutResult:
        to = Phase.COMMITTED if outcome is RolloutOutcome.COMMITTED else Phase.ABORTED
        return RolloutResult(
            workflow=started.workflow,
            plan=started.plan,
            generation=started.generation,
            run=RUN,
            outcome=outcome,
            phases=dict.fromkeys(started.devices, to),
            failures=failures,
        )


def place(replica: Replica) -> tuple[str, str, str | None]:
    """Where a variant of a stage is loaded."""
    return replica.device, replica.stage, replica.variant


def restricted(problem: Problem, names: Collection[str]) -> Problem:
    """The problem on some of its devices; the sources' shares are those of the ones that are left."""

    def shares(pinned: dict[str, float]) -> dict[str, float]:
        left = {d: share for d, share in pinned.items() if d in names}
        whole = sum(left.values())
        return {d: share / whole for d, share in left.items()}

    if all(d.name in names for d in problem.devices):
        return problem
    return replace(
        problem,
        devices=[d for d in problem.devices if d.name in names],
        profiles=[p for p in problem.profiles if p.device in names],
        stages=[
            replace(s, pinned=shares(s.pinned), devices=[d for d in s.devices if d in names])
            for s in problem.stages
        ],
    )


def _catalogue(problem: Problem) -> Catalogue:
    return Catalogue(
        variants={
            stage.name: {
                name: Variant(
                    model=f"ocr-{stage.name}",
                    name=name,
                    runtime="onnx",
                    precision="fp32",
                    model_file="m",
                    files={"m": _ARTIFACT},
                    bundle=_BUNDLE,
                )
                for name in stage.variants
            }
            for stage in problem.stages
            if stage.variants
        }
    )


def _described(name: str, at: float) -> events.DeviceDescribed:
    fingerprint = Fingerprint(
        host=name,
        os="linux",
        python="3.11",
        agent_version="0",
        cpu=Cpu(model=name, architecture="x86_64", cores_physical=1, cores_logical=1),
        memory_bytes=2**32,
        disk_bytes=2**36,
        threads=1,
    )
    description = Description(
        agent_version="0",
        protocol_version=1,
        tier="edge",
        price_per_hour=0.0,
        usable_share=0.8,
        data_address=f"{name}:1",
        fingerprint=fingerprint,
    )
    return events.DeviceDescribed(
        at=at,
        who=WHO,
        sighting=name,
        address=f"{name}:1",
        device=name,
        name=name,
        description=description,
    )


def _recorded(workflow: Workflow, text: str, at: float) -> events.WorkflowRecorded:
    return events.WorkflowRecorded(
        at=at,
        who=WHO,
        workflow=workflow.workflow,
        digest=workflow.digest,
        text=text,
        folder=".",
    )
