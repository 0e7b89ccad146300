"""How long a mesh takes to recover from kill -9 of a device that carries a stage: ``python bench/recovery``.

Agents on loopback serve a steady stream while a coordinator keeps the workflow; again and again a hub's agent and
worker are killed, and started again once the mesh has moved its work. `read-signs` is the demo's mesh with the real
models (fetch them with ``coordinator demo``; they are profiled in the first run); `steady` needs no model.

Times are seconds from the kill, by one machine's clock. The full rate is reached when from then on eight results, or
what comes in half a second, take no longer than planned (less 5 %). Waits after a device's return are shortened, so
that ten kills take minutes; what follows a failure is as it is by default.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
from stages import Stages, stages

from coordinator import config
from coordinator.cli.demo import agents, photos
from coordinator.cli.demo.agents import DEVICES, AgentProcess, DemoDevice
from coordinator.cli.demo.run import PLAN, PROFILE
from coordinator.fleet import events
from coordinator.fleet.liveness import Timing
from coordinator.keeping import Keeping
from coordinator.mesh import Mesh
from coordinator.replanning import Policy
from coordinator.telemetry.status import ledger_of
from coordinator.variants import Ladders
from tiermesh.documents.workflow import Workflow
from tiermesh.errors import TiermeshError

ROOT: Final = Path(__file__).parents[2]
WINDOW_S: Final = 0.5
WINDOW_RESULTS: Final = 8
PAUSE_S: Final = 4.0
FULL: Final = 0.95
LIMIT_S: Final = 90.0
PHOTOS: Final = 40
TIMING: Final = Timing(hold_s=1.0, forgiven_after_s=1.0)
POLICY: Final = Policy(settle_s=0.5, dwell_s=0.5, calm_s=1.0)
STEADY_DEVICES: Final = (
    DemoDevice("cam", "edge", 0.01, threads=1, slowdown=1),
    DemoDevice("hub-1", "hub", 0.02, threads=1, slowdown=1),
    DemoDevice("hub-2", "hub", 0.04, threads=1, slowdown=1),
)
STEADY: Final = """
workflow: steady
slo: {rate: 40/s}
stages:
  files: {source: files, path: in, rate: 40/s, repeat: true, devices: [cam]}
  work:  {map: code, from: files, tiers: [hub]}
  out:   {sink: jsonl, path: out.jsonl, from: work, devices: [cam]}
"""
CODE: Final = """
class Work:
    def __init__(self, files, options):
        pass

    def apply(self, payload):
        return {"name": payload["name"]}
"""


class Line(msgspec.Struct):
    """What of a line in a sink's file is used; times in Unix seconds."""

    id: str
    outcome: str
    accepted_at: float
    finished_at: float


@dataclass(frozen=True)
class Kill:
    """One kill; seconds from it until the device was given up, another plan served, and the full rate was back."""

    device: str
    at: float
    failed_s: float
    generation_s: float
    stages: Stages
    full_rate_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A mesh to kill devices of. `folder` keeps the agents' state; `models` are the folder of the ladders."""

    name: str
    folder: Path
    home: Path
    devices: Sequence[DemoDevice]
    prepare: Callable[[Path], Path]


def steady(folder: Path) -> Scene:
    """One stage of code, on either of two hubs."""
    return Scene(
        name="steady", folder=folder, home=folder, devices=STEADY_DEVICES, prepare=_prepare_steady
    )


def _prepare_steady(folder: Path) -> Path:
    (folder / "code").mkdir()
    (folder / "code" / "stage.toml").write_text('entry = "work:Work"\n')
    (folder / "code" / "work.py").write_text(CODE)
    data = folder / "agents" / "cam" / "data" / "in"
    data.mkdir(parents=True)
    for number in range(50):
        (data / f"{number:02}.bin").write_bytes(os.urandom(8_000))
    path = folder / "steady.yaml"
    path.write_text(STEADY)
    return path


def read_signs() -> Scene:
    """The demo's mesh, with what it has fetched; profiles are kept for the next time."""
    home = config.home()
    return Scene(
        name="read-signs",
        folder=home / "recovery",
        home=home,
        devices=DEVICES,
        prepare=_prepare_read_signs,
    )


def _prepare_read_signs(folder: Path) -> Path:
    cameras = [d.name for d in DEVICES if d.tier == DEVICES[0].tier]
    signs = [folder / "agents" / camera / "data" / "signs" for camera in cameras]
    for one in signs:
        one.mkdir(parents=True, exist_ok=True)
    photos.render(signs, PHOTOS, seed=7)
    text = (ROOT / "variants" / "read-signs" / "read-signs.yaml").read_text()
    path = folder / "recovery.yaml"
    path.write_text(
        text.replace("path: signs/, rate: 4/s", "path: signs/, rate: 4/s, repeat: true")
    )
    return path


class Recovering:
    """One mesh, kept, whose hubs are killed one after the other."""

    def __init__(self, mesh: Mesh, keeping: Keeping, processes: list[AgentProcess]) -> None:
        self._mesh = mesh
        self._keeping = keeping
        self._processes = processes

    @property
    def generation(self) -> int:
        """What serves now."""
        return max((r.generation for r in self._mesh.fleet.running.values()), default=0)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition."""
        try:
            async with asyncio.timeout(LIMIT_S):
                while not condition():  # noqa: ASYNC110 - of files and processes nobody tells
                    await asyncio.sleep(0.01)
        except TimeoutError:
            last = [e.event for e in await self._mesh.history(limit=8)]
            raise TiermeshError(f"not within {LIMIT_S:g} s: {what}", why=repr(last)) from None

    def victim(self) -> str:
        """The device with most to do among those that neither source nor sink needs."""
        (running,) = self._mesh.fleet.running.values()
        plan = self._mesh.fleet.plans[running.plan].plan
        workflow = self._mesh.workflow_of(plan)
        ends = {r.device for r in plan.replicas if workflow.stages[r.stage].kind in _ENDS}
        busy = Counter({r.device: 0.0 for r in plan.replicas if r.device not in ends})
        for replica in plan.replicas:
            if replica.device in busy:
                busy[replica.device] += replica.utilization + 1e-9  # pyright: ignore[reportArgumentType]
        return max(busy, key=lambda device: busy[device])

    async def kill(self) -> Kill:
        """Kill a device, wait until another plan serves, start it again, and wait until it is planned for."""
        name, before = self.victim(), self.generation
        device = self._mesh.fleet.named(name)
        assert device is not None  # noqa: S101 - the plan uses it
        sample = self._keeping.newest[device.id].sample
        at_number = (await self._mesh.history(limit=1))[-1].number
        (index,) = (i for i, p in enumerate(self._processes) if p.device.name == name)
        process = self._processes[index]
        at = time.time()
        process.process.send_signal(signal.SIGKILL)
        if sample is not None and sample.worker.pid:
            os.kill(sample.worker.pid, signal.SIGKILL)
        await self.until(lambda: self.generation > before, "another plan serves")
        ended_at = time.time()
        await process.process.wait()
        happened = [e.event for e in await self._mesh.history(after=at_number)]
        failed = next(e.at for e in happened if isinstance(e, events.DeviceFailed))
        found = Kill(name, at, failed - at, ended_at - at, stages(at, happened))
        await asyncio.sleep(PAUSE_S)
        folder, mesh = process.log.parent, self._mesh.name
        self._processes[index] = await AgentProcess.start(process.device, folder, mesh)
        await self.until(lambda: name in {d.name for d in self._mesh.fleet.ready}, "it is back")
        await self.until(lambda: self._is_over(before + 1), "its return was considered")
        return found

    def _is_over(self, after: int) -> bool:
        (replan,) = self._mesh.fleet.replans.values()
        is_over = replan.outcome is not None
        return is_over and (replan.reason == "device-returned" or self.generation > after)

    async def drained(self) -> int:
        """Wait until as many have ended as were accepted before now; returns how many."""
        (running,) = self._mesh.fleet.running.values()
        wanted = self._ledger(running.run).accepted
        await self.until(lambda: self._ledger(running.run).confirmed >= wanted, "all is answered")
        return wanted

    def _ledger(self, run: str):  # noqa: ANN202 - coordinator.telemetry.status.Ledger
        (name,) = self._mesh.fleet.running
        said = [o.sample for o in self._keeping.newest.values() if o.sample is not None]
        return ledger_of(said, name, run)


_ENDS: Final = ("source", "sink")


def full_rate_s(finished: Sequence[float], killed: float, rate_rps: float) -> float:
    """Seconds from a kill until the full rate is there for a whole window."""
    window_s = max(WINDOW_S, WINDOW_RESULTS / rate_rps)
    after = [t for t in finished if t >= killed]
    for start in [killed, *after]:
        if sum(start <= t < start + window_s for t in after) >= FULL * rate_rps * window_s:
            return start - killed
    return float("inf")


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed; of an even number, the median lies between two."""
    return median(values) if share == 0.5 else sorted(values)[ceil(share * len(values)) - 1]


def stage_line(of: Sequence[Stages]) -> str:
    """The median of each stage, in words."""
    rows = [asdict(one) for one in of]
    medians = {name: median(row[name] for row in rows) for name in rows[0]}
    return ", ".join(f"{name.removesuffix('_s')} {s:.2f}" for name, s in medians.items())


def results(scene: Scene) -> list[Line]:
    """All lines of the sinks' files."""
    files = sorted((scene.folder / "agents").glob("*/data/**/*.jsonl"))
    rows = (row for file in files for row in file.read_bytes().splitlines())
    return [msgspec.json.decode(row, type=Line) for row in rows]


async def measured(scene: Scene, times: int, pause_s: float) -> tuple[list[Kill], dict[str, float]]:
    """Start the mesh, kill, and read from the sinks' files what the requests say."""
    begun = time.time()
    path = await asyncio.to_thread(scene.prepare, scene.folder)
    ladders = Ladders.open(ROOT / "variants", scene.home)
    name = agents.mesh_of(scene.folder)
    state = scene.folder / "coordinator"
    async with (
        agents.running(scene.folder / "agents", name, scene.devices) as processes,
        Mesh.open(state, ladders=ladders, home=scene.home, name=name) as mesh,
    ):
        await mesh.discover(expect=len(scene.devices), timeout_s=30.0)
        # A run that was interrupted in a rollout left it open.
        await mesh.settle()
        workflow = await mesh.read_workflow(path)
        await mesh.profile(workflow, options=PROFILE)
        kills, accepted = await _kept(mesh, workflow, processes, times, pause_s)
    lines = [line for line in results(scene) if line.accepted_at >= begun]
    rate = float(workflow.slo.rate or 0.0)
    finished = sorted(line.finished_at for line in lines)
    done = [replace(k, full_rate_s=full_rate_s(finished, k.at, rate)) for k in kills]
    twice = len(lines) - len({line.id for line in lines})
    errors = sum(line.outcome != "result" for line in lines)
    return done, {"accepted": accepted, "errors": errors, "delivered_twice": twice}


async def _kept(
    mesh: Mesh, workflow: Workflow, processes: list[AgentProcess], times: int, pause_s: float
) -> tuple[list[Kill], int]:
    keeping = Keeping(mesh, [workflow], options=PLAN, policy=POLICY, timing=TIMING)
    tasks = [asyncio.create_task(keeping.run()), asyncio.create_task(mesh.look_out())]
    recovering = Recovering(mesh, keeping, processes)
    try:
        await recovering.until(lambda: recovering.generation > 0, "a plan serves")
        kills: list[Kill] = []
        for _ in range(times):
            await asyncio.sleep(pause_s)
            kills.append(await recovering.kill())
        return kills, await recovering.drained()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scene", choices=["steady", "read-signs"], default="steady")
    parser.add_argument("--kills", type=int, default=10, metavar="N")
    parser.add_argument(
        "--pause",
        type=float,
        default=PAUSE_S,
        metavar="S",
        help="at rest before each kill (%(default)s)",
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scene = steady(Path(folder)) if args.scene == "steady" else read_signs()
        kills, ledger = asyncio.run(measured(scene, args.kills, args.pause))
    if args.json:
        print(json.dumps({"kills": [asdict(k) for k in kills], "ledger": ledger}))
        return
    print(f"{scene.name}; seconds from kill -9 of an agent and its worker")
    print("device     given up   other plan serves   full rate")
    for k in kills:
        print(f"{k.device:<10} {k.failed_s:8.2f}   {k.generation_s:17.2f}   {k.full_rate_s:9.2f}")
    columns = [[k.failed_s for k in kills], [k.generation_s for k in kills]]
    columns.append([k.full_rate_s for k in kills])
    for name, share in (("median", 0.5), ("p90", 0.9), ("longest", 1.0)):
        a, b, c = (quantile(column, share) for column in columns)
        print(f"{name:<10} {a:8.2f}   {b:17.2f}   {c:9.2f}")
    print(f"where it went (median): {stage_line([k.stages for k in kills])}")
    print(", ".join(f"{value:g} {name.replace('_', ' ')}" for name, value in ledger.items()))


if __name__ == "__main__":
    main()
