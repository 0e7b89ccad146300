"""One run: a mesh, a scene, a system and a seed, for so many simulated seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.attainment import plans
from bench.attainment.foresight import foreseen
from bench.attainment.keeping import Keeper, seconds_of
from bench.attainment.scenes import Phase, Scene, segments
from bench.attainment.settings import SLO_S, Setting
from bench.attainment.systems import System
from bench.attainment.timeline import SimulatedLoop, Timeline
from bench.attainment.truth import Truth
from bench.attainment.world import World
from tiermesh.documents.plan import Plan
from tiermesh.errors import Infeasible

BEGUN_AT = 1_800_000_000.0


@dataclass(frozen=True)
class Run:
    """What came of it. `feasible` is whether some plan meets the SLO in each phase, which only foresight says."""

    scene: Scene
    system: System
    scale: float
    seconds: float
    truth: Truth
    world: World
    wall_s: float
    feasible: bool | None = None


def run(
    setting: Setting, scene: Scene, system: System, *, seconds: float, seed: int, scale: float
) -> Run:
    """Play it through.

    Raises:
        Infeasible: the system has no plan to begin with.
    """
    began = time.perf_counter()
    timeline = Timeline()
    truth = Truth(setting, scene, timeline, seconds, seed)
    plan = plans.first(setting, system, scale)
    if plan is None:
        raise Infeasible(f"{system.name} has no plan for {scale:g} times the rate")
    lost = any(phase.lost for phase in scene.phases)
    but = plans.ends(setting.problem) if lost else ()
    truth.victims = plans.busiest(plan, setting.lost if lost else setting.victims, but)
    world = World(setting, system, timeline, truth, BEGUN_AT)
    world.may_lose = lost
    loop = SimulatedLoop(timeline, lambda *arguments: seconds_of(world, *arguments))
    try:
        feasible = loop.run_until_complete(_play(world, plan, seconds, seed, scene))
    finally:
        loop.close()
    wall_s = time.perf_counter() - began
    return Run(scene, system, scale, seconds, truth, world, wall_s, feasible)


async def _play(world: World, plan: Plan, seconds: float, seed: int, scene: Scene) -> bool | None:
    feasible = True if world.system.clairvoyant else None
    parts = segments(scene, seconds, seed)
    # A phase begins before whoever foresaw it switches: a device that comes back is there by then.
    for part in parts:
        world.timeline.after(part.begin, _enter(world, part.phase))
    if world.system.clairvoyant:
        found = [foreseen(world.setting, world.truth, part, seconds) for part in parts]
        feasible = all(meets for _, meets in found)
        world.begin(found[0][0])
        for part, (best, _) in zip(parts[1:], found[1:], strict=True):
            world.timeline.after(part.begin, _switch(world, best))
    else:
        world.begin(plan)
    keeping = asyncio.ensure_future(Keeper(world).run()) if world.system.replans else None
    await asyncio.sleep(seconds + 2 * SLO_S)
    if keeping is not None:
        if keeping.done():
            keeping.result()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    return feasible


def _switch(world: World, plan: Plan) -> Callable[[], None]:
    return lambda: world.begin(plan)


def _enter(world: World, phase: Phase) -> Callable[[], None]:
    def enter() -> None:
        world.wires.speed = phase.link
        for name in world.truth.victims:
            machine = world.machines[name]
            if phase.lost and machine.is_up:
                machine.fail()
            elif not phase.lost and not machine.is_up:
                machine.start()
                machine.pump()

    return enter
