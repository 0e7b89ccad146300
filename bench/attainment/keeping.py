"""The coordinator of a simulated mesh: the product's `WorkflowController`, told by samples of simulated machines."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from agent.serving.worker_figures import worker_figures
from bench.attainment.machine import Machine
from bench.attainment.world import WHO, World
from coordinator.fleet import events
from coordinator.fleet.liveness import (
    LivenessChanged,
    LivenessState,
    Timing,
    Vigil,
    added,
    heard,
    passed,
)
from coordinator.keeping.workflow_controller import WorkflowController
from coordinator.progress import silent
from coordinator.replanning import Policy
from coordinator.replanning.search import search
from tiermesh.v1 import telemetry_pb2 as pb

LOOK_S: Final = 0.25
CALL_S: Final = {"shortfalls": 0.2, "while_serving": 0.2, "inflation": 0.5}
"""What the coordinator does in a thread besides, in seconds."""


class _AllMeasured:
    """Every variant has a profile on every device."""

    at_work = False

    async def measure(self, *_: Any) -> None:
        """Nothing is missing."""


class Keeper:
    """Keeps a world's workflow served."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._vigil = Vigil(timing=Timing())
        for name in world.machines:
            self._vigil = added(self._vigil, name)
        self._numbers = dict.fromkeys(world.machines, 0)
        self.kept = WorkflowController(
            world,
            world.workflow,
            unmeasured=_AllMeasured(),
            may_replan=lambda: True,
            options=world.system.options,
            policy=Policy() if world.may_lose else Policy(contingencies=0),
            source_bytes=None,
            report=silent,
        )

    async def run(self) -> None:
        """Keep it served until this is cancelled."""
        world, kept = self._world, self.kept
        world.changed = kept.look
        kept.look()
        world.timeline.every(world.setting.sample_s, self._sample)
        async with asyncio.TaskGroup() as group:
            group.create_task(kept.run())
            group.create_task(self._measure())
            group.create_task(self._listen())

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(self._world.setting.measure_s)
            await self.kept.measure()

    def _sample(self) -> None:
        for machine in self._world.machines.values():
            if machine.is_up:
                device = self._world.fleet.devices[machine.name]
                self.kept.take(device, self._sampled(machine))

    def _sampled(self, machine: Machine) -> pb.Sample:
        """As the agent's supervisor fills a sample."""
        flow = machine.flow
        self._numbers[machine.name] += 1
        sample = pb.Sample(number=self._numbers[machine.name], at=self._world.now())
        if flow is None:
            return sample
        sample.worker.state = pb.WorkerState.STATE_SERVING
        sample.figures.CopyFrom(worker_figures({flow.workflow: flow}, machine.now))
        if flow.current:
            sample.generations[flow.workflow] = flow.current
        return sample

    async def _listen(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for machine in self._world.machines.values():
                if machine.is_up:
                    self._vigil = heard(self._vigil, machine.name)
            self._vigil, moved = passed(self._vigil, self._world.timeline.now)
            happened = [self._event(m) for m in moved]
            if happened:
                await self._world.record(*happened)

    def _event(self, moved: LivenessChanged) -> events.Event:
        """As the coordinator's listening notes it."""
        said = {"at": self._world.now(), "who": WHO, "device": moved.device, "why": moved.why}
        match moved.standing:
            case LivenessState.FAILED:
                return events.DeviceFailed(**said, hold_s=moved.hold_s)
            case LivenessState.HELD:
                return events.DeviceHeld(**said, hold_s=moved.hold_s)
            case LivenessState.SUSPECT:
                return events.DeviceLost(**said)
            case LivenessState.READY:
                return events.DeviceReturned(**said)


def seconds_of(world: World, function: Any, *_: object) -> float:
    """How long a call in a thread takes: a search as long as the setting says, what plays plans through a little."""
    name = getattr(getattr(function, "func", function), "__name__", "")
    return world.setting.planning_s if name == search.__name__ else CALL_S.get(name, 0.0)
