"""What runs: status, samples, why it misses its SLO, waiting for its end; and settings of who keeps it served."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from msgspec import structs

from coordinator.api.documents import Causes, WaitedRun, encode_document
from coordinator.api.handlers.base import Handlers, reported
from coordinator.api.handlers.rollouts import check_ends
from coordinator.fleet.lifecycle import DeviceState
from coordinator.telemetry.watching import Observed
from tiermesh.errors import Unsupported
from tiermesh.v1 import coordinator_pb2 as pb

if TYPE_CHECKING:
    from coordinator.fleet.state import Device, Fleet
    from coordinator.keeping.load_monitor import LoadMonitor
    from coordinator.keeping.waiting import Waited, Waiting
    from tiermesh.v1 import telemetry_pb2

SAMPLES: Final = 2
SAMPLES_S: Final = 0.5
SILENT_S: Final = 3.0
"""A device that gives no sample for so much longer than asked is silent."""


class RunHandlers(Handlers):
    """What is measured of what runs."""

    async def get_settings(self, request: pb.GetSettingsRequest) -> pb.Settings:
        """The settings of the running coordinator; none where this process keeps nothing served."""
        del request
        keeping = self.keeping
        return pb.Settings(auto_replan=keeping.auto_replan if keeping is not None else None)

    async def set_settings(self, request: pb.Settings) -> pb.Settings:
        """Change the settings that are given; returns all."""
        if self.keeping is None:
            raise Unsupported(
                "there are no settings to change",
                why="no coordinator is running",
                fix="Start it: coordinator run",
            )
        if request.HasField("auto_replan"):
            self.keeping.auto_replan = request.auto_replan
            word = "on" if request.auto_replan else "off"
            await self.writes().note(f"automatic replanning is {word}")
        return await self.get_settings(pb.GetSettingsRequest())

    async def get_status(self, request: pb.GetStatusRequest) -> pb.GetStatusReply:
        """What runs where, and what is measured against what was predicted."""
        from coordinator.telemetry.status import status_of

        names = self._running(request.workflow)
        await self.look_for_known()
        fleet = self.mesh.fleet
        devices = self._used_by(names)
        samples, silent = await self._sampled(devices, request.interval_s or 1.0)
        found = [status_of(name, fleet, samples, silent, self.mesh.now()) for name in names]
        return pb.GetStatusReply(workflows=[encode_document(status) for status in found])

    def _running(self, wanted: str) -> list[str]:
        if wanted:
            return [self.running_named(wanted, "shown")]
        return sorted(self.mesh.fleet.running)

    def _used_by(self, names: Collection[str]) -> list[Device]:
        fleet = self.mesh.fleet
        used = {device for name in names for device in fleet.running[name].devices}
        return [fleet.devices[device] for device in sorted(used)]

    async def _sampled(
        self, devices: list[Device], interval_s: float
    ) -> tuple[dict[str, list[telemetry_pb2.Sample]], dict[str, str]]:
        """Samples of each device that are far enough apart for rates, or why a device gave none."""
        samples: dict[str, list[telemetry_pb2.Sample]] = defaultdict(list)
        silent: dict[str, str] = {}
        watching = self.mesh.watch(devices=devices, interval_s=interval_s)
        try:
            async with asyncio.timeout(SAMPLES * interval_s + SILENT_S), aclosing(watching):
                async for observed in watching:
                    _take(observed, samples, silent)
                    enough = {d for d, of in samples.items() if _is_enough(of)} | silent.keys()
                    if len(enough) == len(devices):
                        break
        except TimeoutError:
            missing = {d.id for d in devices} - samples.keys() - silent.keys()
            silent |= dict.fromkeys(missing, "no sample")
        return samples, silent

    async def watch_samples(
        self, request: pb.WatchSamplesRequest
    ) -> AsyncGenerator[pb.DeviceSample]:
        """The newest sample of each device, as it comes; of devices that become ready later, too."""
        await self.look_for_known()
        newest: dict[str, Observed] = {}
        arrived = asyncio.Event()
        named = self.devices_named(list(request.devices)) if request.devices else None

        def take(observed: Observed) -> None:
            newest[observed.device.id] = observed
            arrived.set()

        task = asyncio.ensure_future(self._follow_all(named, request.interval_s or 0.5, take))
        task.add_done_callback(lambda _task: arrived.set())
        try:
            while not task.done():
                await arrived.wait()
                arrived.clear()
                for device in list(newest):
                    yield _sample_message(newest.pop(device))
            task.result()
        finally:
            task.cancel()
            await asyncio.wait((task,))

    async def _follow_all(
        self, named: list[Device] | None, interval_s: float, take: Callable[[Observed], None]
    ) -> None:
        watched: set[str] = set()
        async with asyncio.TaskGroup() as tasks:
            while True:
                change = self.mesh.change
                for device in self.mesh.fleet.ready if named is None else named:
                    if device.id not in watched:
                        watched.add(device.id)
                        tasks.create_task(self._follow_one(device, interval_s, take))
                await change.wait()

    async def _follow_one(
        self, device: Device, interval_s: float, take: Callable[[Observed], None]
    ) -> None:
        async with aclosing(self.mesh.watch(devices=[device], interval_s=interval_s)) as samples:
            async for observed in samples:
                take(observed)

    async def explain_running(self, request: pb.ExplainRunningRequest) -> pb.ExplainRunningReply:
        """Measure what runs for a while, and say what is otherwise than planned."""
        names = self._running(request.workflow)
        await self.look_for_known()
        made = {name: measuring_of(self.mesh.fleet, name) for name in names}
        newest = await self._listened(made, request.interval_s or 10.0)
        found = [
            await asyncio.to_thread(_causes, self.mesh.fleet, measuring, newest)
            for measuring in made.values()
        ]
        return pb.ExplainRunningReply(workflows=[encode_document(one) for one in found])

    async def _listened(
        self, made: Mapping[str, LoadMonitor], interval_s: float
    ) -> dict[str, Observed]:
        """Take in what the devices say for `interval_s` seconds; the newest of each, by id."""
        devices = self._used_by(made)
        used = {device.id for device in devices}
        newest: dict[str, Observed] = {}
        watching = self.mesh.watch(devices=devices, interval_s=SAMPLES_S)
        begun = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(interval_s + SILENT_S), aclosing(watching):
                async for observed in watching:
                    newest[observed.device.id] = observed
                    if observed.sample is not None:
                        for measuring in made.values():
                            measuring.take(observed.device.name, observed.sample)
                    now = asyncio.get_running_loop().time()
                    if now - begun >= interval_s and newest.keys() >= used:
                        break
        except TimeoutError:
            pass
        return newest

    async def wait(self, request: pb.WaitRequest) -> AsyncGenerator[pb.WaitEvent]:
        """Wait until a run has ended, or for a time, and say what came of it."""
        from coordinator.keeping.waiting import wait

        name = self.running_named(request.workflow, "waited for")
        if not request.for_s and not request.timeout_s:
            digest = self.mesh.fleet.running[name].workflow_digest
            check_ends(self.workflow_of_digest(digest), "wait", "Give --for or --timeout")
        await self.look_for_known()
        begun = time.monotonic()

        async def work(tell: Callable[[pb.WaitProgress], None]) -> Waited:
            return await wait(
                self.mesh,
                name,
                for_s=request.for_s or None,
                timeout_s=request.timeout_s or None,
                show=lambda waiting: tell(self._progress(waiting, time.monotonic() - begun)),
            )

        async with aclosing(reported(work)) as steps:
            async for step in steps:
                if isinstance(step, pb.WaitProgress):
                    yield pb.WaitEvent(progress=step)
                else:
                    yield pb.WaitEvent(waited=encode_document(WaitedRun.of(step)))

    def _progress(self, waiting: Waiting, passed_s: float) -> pb.WaitProgress:
        ledger = waiting.ledger
        objectives = waiting.attainment(self.mesh.fleet).objectives
        run = [o.windows["run"] for o in objectives if "run" in o.windows]
        return pb.WaitProgress(
            accepted=ledger.accepted,
            confirmed=ledger.confirmed,
            errors=ledger.errors,
            within=run[-1].share if run else None,
            passed_s=passed_s,
        )


def _take(
    observed: Observed, samples: dict[str, list[telemetry_pb2.Sample]], silent: dict[str, str]
) -> None:
    if observed.sample is not None:
        samples[observed.device.id].append(observed.sample)
        silent.pop(observed.device.id, None)
    else:
        silent[observed.device.id] = observed.why


def _is_enough(of: list[telemetry_pb2.Sample]) -> bool:
    from coordinator.telemetry.status import SHORTEST_S, counted_at

    return len(of) >= SAMPLES and counted_at(of[-1]) - counted_at(of[0]) >= SHORTEST_S


def _sample_message(observed: Observed) -> pb.DeviceSample:
    made = pb.DeviceSample(device=observed.device.id, sample=observed.sample, why=observed.why)
    if observed.link is not None:
        made.link.rtt_ms = observed.link.rtt_ms
        made.link.least_ms = observed.link.least_ms
        made.link.pings = observed.link.pings
        made.link.reconnects = observed.link.reconnects
    return made


def measuring_of(fleet: Fleet, name: str) -> LoadMonitor:
    """What a running workflow is measured against: its plan, with the profiles that there are now."""
    from coordinator.keeping.load_monitor import LoadMonitor
    from coordinator.planning.snapshot import snapshot
    from coordinator.replanning.current_problem import with_rate
    from coordinator.workflows.yaml_files import parse_workflow

    running = fleet.running[name]
    plan = fleet.plans[running.plan].plan
    asked = parse_workflow(fleet.workflows[running.workflow_digest].text)
    # What is measured here are times and rates; tables of accuracy need not be at hand.
    workflow = structs.replace(asked, slo=structs.replace(asked.slo, accuracy=None))
    made = snapshot(_as_planned(fleet, running.devices), workflow, running.catalogue)
    problem = with_rate(made.problem, plan.predicted.throughput_rps)
    return LoadMonitor(problem, {}, plan, running.run, running.generation)


def _as_planned(fleet: Fleet, used: Collection[str]) -> Fleet:
    """With the devices of a plan as they were when it was made: one that is lost has its profiles still."""
    ready = {
        d: structs.replace(device, state=DeviceState.READY) if d in used else device
        for d, device in fleet.devices.items()
    }
    return structs.replace(fleet, devices=ready)


def _causes(fleet: Fleet, measuring: LoadMonitor, newest: Mapping[str, Observed]) -> Causes:
    from coordinator.keeping.evidence import evidence_of
    from coordinator.replanning.causes import causes
    from coordinator.replanning.corrected_prediction import while_serving

    drifts = measuring.drifts()
    found = causes(evidence_of(fleet, measuring, drifts, newest))
    now = while_serving(measuring.problem, measuring.plan, drifts)
    load = measuring.load()
    return Causes(
        workflow=measuring.problem.name,
        generation=measuring.generation,
        causes=[asdict(cause) for cause in found],
        load=asdict(load) if load is not None else None,
        predicted_ms={**measuring.plan.predicted.latency_ms},
        expected_ms={**now.latency_ms},
        corrections={replica: asdict(ratio) for replica, ratio in now.corrections.items()},
    )
