"""Planning ahead for the loss of a device while nothing else is to do, and having ready what those plans need."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from msgspec import structs

from coordinator.fleet import Fleet, apply, events
from coordinator.fleet.state import Device
from coordinator.planning import Options
from coordinator.planning.watching import Watch
from coordinator.replanning import Policy
from coordinator.replanning.contingency import (
    Contingency,
    Memory,
    at_risk,
    found_ahead,
    standby_of,
    standing_by,
)
from coordinator.replanning.search import Finding, search
from coordinator.rollout.assignment import assignments
from coordinator.rollout.steps import Steps
from tiermesh.documents.assignment import Assignment
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem
from tiermesh.documents.profile import Profile
from tiermesh.documents.workflow import Workflow
from tiermesh.errors import TiermeshError

if TYPE_CHECKING:
    from coordinator.runner import Mesh

log = logging.getLogger(__name__)

LOOK_S: Final = 0.25
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

    def is_that_of(self, other: Situation | None) -> bool:
        """Whether nothing has changed since the other."""
        return other is not None and self.key == other.key and self.profiles is other.profiles


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
        self._standing: dict[str, Assignment] = {}
        self._work: asyncio.Task[None] | None = None

    def finding(self, problem: Problem) -> Finding | None:
        """What was found ahead for a problem, or still meets it; blocks while that is checked."""
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
                    log.warning("cannot plan ahead: %s", error)

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
        names = at_risk(now.plan, self._policy.contingencies)
        self._found = {n: c for n, c in self._found.items() if n in names}
        for name in names:
            found = await self._contingency(name, now)
            if found is not None:
                self._found[name] = found
            else:
                self._found.pop(name, None)
        await self._stand_by(now)

    async def _contingency(self, name: str, now: Situation) -> Contingency | None:
        """What to do when a device is lost: what is known already, where it still holds."""
        device = self._mesh.fleet.named(name)
        if device is None:
            return None
        lost = events.DeviceFailed(at=self._mesh.now(), who="", device=device.id, why="")
        try:
            problem = await self._problem(now, apply(lost, self._mesh.fleet))
        except TiermeshError:
            # Such as a stage that can be served nowhere else.
            return None
        known = self._found.get(name)
        if known is not None and await asyncio.to_thread(found_ahead, [known], problem):
            return known
        finding = await self._searched(problem, now.plan)
        return Contingency(name, problem, finding) if finding.plan is not None else None

    async def _searched(self, problem: Problem, running: Plan) -> Finding:
        """Search in a thread, which ends soon after nobody waits for it any more."""
        gone = threading.Event()
        options = replace(self._options, watch=Watch(stopped=gone.is_set))
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
        plans = [c.finding.plan for c in self._found.values() if c.finding.plan is not None]
        memory = Memory.of(await self._problem(now, self._mesh.fleet))
        chosen = standing_by(now.plan, plans, memory)
        parts = await self._parts(now, plans)
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
                log.info("%s has nothing standing by: %s", device.name, error)

    async def _parts(
        self, now: Situation, plans: Iterable[Plan]
    ) -> dict[str, dict[str, Assignment]]:
        """Each plan's assignments, by its digest and by device id."""
        catalogue = await self._mesh.catalogue(now.workflow)
        devices = {device.name: device for device in self._mesh.fleet.devices.values()}
        return {
            plan.digest: assignments(
                plan, now.workflow, catalogue, devices, generation=now.generation, run=now.run
            )
            for plan in plans
        }

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
