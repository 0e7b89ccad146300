"""Planning ahead for the loss of a device while nothing else is to do, and having ready what those plans need."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from msgspec import structs

from coordinator.fleet import Fleet, apply, events
from coordinator.fleet.lifecycle import Phase
from coordinator.fleet.state import Device, Rollout, RunningPlan
from coordinator.planning import Options
from coordinator.planning.search_progress import SearchObserver
from coordinator.replanning import Policy
from coordinator.replanning.contingency import (
    Contingency,
    Memory,
    at_risk,
    found_ahead,
    holds,
    running_in,
    standby_of,
    standing_by,
    with_loaded,
)
from coordinator.replanning.search import Finding, search
from coordinator.rollout.assignment import assignments
from coordinator.rollout.steps import Steps
from tiermesh.documents.assignment import Assignment
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem, RunningReplica
from tiermesh.documents.profile import Profile
from tiermesh.documents.workflow import Workflow
from tiermesh.errors import TiermeshError

if TYPE_CHECKING:
    from coordinator.mesh import Mesh

log = logging.getLogger(__name__)

LOOK_S: Final = 0.25
_ENDS: Final = ("source", "sink")
RENEW_S: Final = 60.0
"""How often it is looked again whether what was found still holds, and what stands by is named again."""


@dataclass(frozen=True)
class Situation:
    """A mesh at rest: what is planned ahead for. What was found counts until `key` or `profiles` change."""

    workflow: Workflow
    plan: Plan
    generation: int
    run: str
    adjust: Callable[[Problem], Problem]
    key: Hashable
    profiles: Mapping[str, Mapping[str, Profile]]

    @classmethod
    def of(
        cls,
        fleet: Fleet,
        serves: RunningPlan | Rollout,
        workflow: Workflow,
        adjust: Callable[[Problem], Problem],
    ) -> Situation:
        """The situation of a fleet in which this serves a workflow."""
        ready = tuple((device.id, device.device_class) for device in fleet.ready)
        return cls(
            workflow=workflow,
            plan=fleet.plans[serves.plan].plan,
            generation=serves.generation,
            run=serves.run,
            adjust=adjust,
            key=(serves.generation, serves.plan, ready),
            profiles=fleet.profiles,
        )

    def is_that_of(self, other: Situation | None) -> bool:
        """Whether nothing has changed since the other."""
        return other is not None and self.key == other.key and self.profiles is other.profiles


def what_serves(fleet: Fleet, workflow: str) -> RunningPlan | Rollout | None:
    """What serves a workflow on all its devices; None while devices switch, or while it does not run.

    A rollout of which only devices are left that it leaves out, and that have yet to end what they had, does serve.
    """
    rollout = fleet.rollouts.get(workflow)
    if rollout is None or rollout.outcome is not None:
        return fleet.running.get(workflow)
    has_switched = set(rollout.members.values()) == {Phase.COMMITTED}
    return rollout if has_switched and rollout.plan else None


class Contingencies:
    """The contingency plans of one workflow. `at_rest` is the mesh as it is, or None while something goes on."""

    def __init__(
        self,
        mesh: Mesh,
        at_rest: Callable[[], Situation | None],
        *,
        options: Options,
        policy: Policy,
        source_bytes: dict[str, float] | None,
    ) -> None:
        self._mesh = mesh
        self._at_rest = at_rest
        self._options = options
        self._policy = policy
        self._source_bytes = source_bytes
        self._clock = asyncio.get_running_loop().time
        self._found: dict[str, Contingency] = {}
        self._names: list[str] = []
        self._standing: dict[str, Assignment] = {}
        self._work: asyncio.Task[None] | None = None

    def finding(self, problem: Problem) -> Finding | None:
        """What was found ahead for a problem, or still serves it."""
        return found_ahead(list(self._found.values()), problem)

    def interrupt(self) -> None:
        """Something is to be done at once: what is done ahead must not be in its way."""
        if self._work is not None:
            self._work.cancel()

    async def run(self) -> None:
        """Plan ahead whenever the mesh has been at rest for a while, until this is cancelled."""
        while self._policy.contingencies:
            now = await self._rest()
            self._work = asyncio.create_task(self._prepare(now), name="planning ahead")
            try:
                await self._last(now)
            finally:
                self._work.cancel()
                (error,) = await asyncio.gather(self._work, return_exceptions=True)
                if isinstance(error, Exception):
                    log.warning("contingency planning failed: %s", error)

    async def _rest(self) -> Situation:
        """Wait until the mesh has been at rest for a while."""
        now, since = self._at_rest(), self._clock()
        while now is None or self._clock() - since < self._policy.contingency_calm_s:
            await asyncio.sleep(LOOK_S)
            before, now = now, self._at_rest()
            if now is None or not now.is_that_of(before):
                since = self._clock()
        return now

    async def _last(self, since: Situation) -> None:
        """Wait until something changes, or what was found is to be looked at again."""
        until = self._clock() + RENEW_S
        while self._clock() < until and since.is_that_of(self._at_rest()):  # noqa: ASYNC110 - time alone changes it
            await asyncio.sleep(LOOK_S)

    async def _prepare(self, now: Situation) -> None:
        ends = {name for name, stage in now.workflow.stages.items() if stage.kind in _ENDS}
        names = at_risk(now.plan, self._policy.contingencies, ends)
        # Those of devices that are lost just now hold again once they are back.
        others = [n for n in self._found if n not in names and self._mesh.fleet.named(n)]
        self._names = [*names, *others][: 2 * self._policy.contingencies]
        self._found = {n: self._found[n] for n in self._names if n in self._found}
        is_told = False
        for name in names:
            known = self._found.get(name)
            found = await self._contingency(name, now, known)
            if found is not known:
                self._keep(name, found)
                await self._stand_by(now)
                is_told = True
        if not is_told:
            await self._stand_by(now)

    def _keep(self, name: str, found: Contingency | None) -> None:
        if found is not None:
            self._found[name] = found
        else:
            self._found.pop(name, None)

    @property
    def _plans(self) -> list[Plan]:
        """The plans that were found, the likeliest to be needed first."""
        found = (self._found[name].finding.plan for name in self._names if name in self._found)
        return [plan for plan in found if plan is not None]

    async def _contingency(
        self, name: str, now: Situation, known: Contingency | None
    ) -> Contingency | None:
        """What to do when a device is lost: what is known already, where it still holds."""
        device = self._mesh.fleet.named(name)
        if device is None:
            return None
        lost = events.DeviceFailed(at=self._mesh.now(), who="", device=device.id, why="")
        fleet = apply(lost, self._mesh.fleet)
        try:
            problem = await self._problem(now, fleet)
        except TiermeshError:
            # Such as a stage that can be served nowhere else.
            return None
        if known is not None and await asyncio.to_thread(holds, known, problem):
            return known
        loaded = self._loaded()

        def preferring(problem: Problem) -> Problem:
            return with_loaded(now.adjust(problem), loaded)

        preferred = await self._problem(replace(now, adjust=preferring), fleet)
        finding = await self._searched(preferred, now.plan)
        return Contingency(name, problem, finding) if finding.plan is not None else None

    def _loaded(self) -> list[RunningReplica]:
        """What stands by, and what will because of the plans that were found so far."""
        names = {device.id: device.name for device in self._mesh.fleet.devices.values()}
        standing = [
            RunningReplica(
                stage=r.stage,
                variant=r.variant.name if r.variant is not None else None,
                device=names[device],
            )
            for device, standby in self._standing.items()
            for r in standby.replicas
        ]
        return [*standing, *(r for plan in self._plans for r in running_in(plan))]

    async def _searched(self, problem: Problem, running: Plan) -> Finding:
        """Search in a thread, which ends soon after nobody waits for it any more."""
        gone = threading.Event()
        options = replace(self._options, watch=SearchObserver(stopped=gone.is_set))
        try:
            return await asyncio.to_thread(search, problem, running, options, self._policy)
        finally:
            gone.set()

    async def _problem(self, now: Situation, fleet: Fleet) -> Problem:
        return await self._mesh.problem(
            now.workflow, source_bytes=self._source_bytes, adjust=now.adjust, fleet=fleet
        )

    # --- what stands by ------------------------------------------------------------------------------------------

    async def _stand_by(self, now: Situation) -> None:
        """Have devices load what the plans would have them load; one at a time, since all of them serve."""
        memory = Memory.of(await self._problem(now, self._mesh.fleet))
        parts = await self._parts(now, self._plans)
        plans = [plan for plan in self._plans if plan.digest in parts]
        chosen = standing_by(now.plan, plans, memory)
        for device in self._mesh.fleet.ready:
            of_device = {plan: part[device.id] for plan, part in parts.items() if device.id in part}
            standby = standby_of(of_device, chosen.get(device.name, []))
            before = self._standing.get(device.id)
            if standby is None and before is not None:
                standby = structs.replace(before, replicas=[], replica_devices={})
            if standby is None:
                continue
            try:
                await self._tell(device, standby, of_device.values())
            except TiermeshError as error:
                log.info("no standby replicas on %s: %s", device.name, error)

    async def _parts(
        self, now: Situation, plans: Iterable[Plan]
    ) -> dict[str, dict[str, Assignment]]:
        """Each plan's assignments, by its digest and by device id."""
        catalogue = await self._mesh.catalogue(now.workflow)
        devices = {device.name: device for device in self._mesh.fleet.devices.values()}
        parts: dict[str, dict[str, Assignment]] = {}
        for plan in plans:
            # One that was found a while ago may name what there is no more.
            with contextlib.suppress(TiermeshError):
                parts[plan.digest] = assignments(
                    plan, now.workflow, catalogue, devices, generation=now.generation, run=now.run
                )
        return parts

    async def _tell(self, device: Device, standby: Assignment, parts: Iterable[Assignment]) -> None:
        """Bring all that the plans need there, and have the device load what is to stand by."""
        artifacts = {digest: a for part in parts for digest, a in part.artifacts.items()}
        await self._mesh.distribution.bring(
            device,
            artifacts.values(),
            self._mesh.workflows.path_of,
            keep_for=f"standby of {standby.workflow}",
            generation=standby.generation,
        )
        if standby.replicas or device.id in self._standing:
            await Steps(self._mesh.sessions, device.id).stand_by(standby)
        if standby.replicas:
            self._standing[device.id] = standby
        else:
            self._standing.pop(device.id, None)
