"""The same on the demo's mesh: agents as processes, real models, a coordinator that stays; read from the sinks' files.

Only what can be done honestly on one machine: a steady load, busy processes beside the agents, and more requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.attainment import records
from bench.attainment.records import LiveRow
from bench.attainment.scenes import FROM, SCENES, UNTIL, WARM_UP, arrivals
from bench.attainment.scoring import ROLLED_OUT, TARGET, recover_s
from coordinator import config
from coordinator.cli.demo import agents, photos
from coordinator.cli.demo.agents import DEVICES
from coordinator.cli.demo.run import PLAN, PROFILE
from coordinator.fleet import events
from coordinator.fleet.spending import spent_usd
from coordinator.keeping import Keeping
from coordinator.mesh import Mesh
from coordinator.telemetry.attainment import attainment_of
from coordinator.variants import Ladders
from tiermesh.documents.assignment import SourceSpec
from tiermesh.documents.plan import Plan
from tiermesh.documents.workflow import Workflow
from tiermesh.errors import TiermeshError

ROOT: Final = Path(__file__).parents[2]
PHOTOS: Final = 120
PHOTO_SEED: Final = 7
RATE_RPS: Final = 4.0
PLAN_S: Final = 120.0
DRAIN_S: Final = 10.0
CAMERAS: Final = tuple(d.name for d in DEVICES if d.tier == DEVICES[0].tier)
BUSY: Final = "while True: pass"
LIVE: Final = {"steady": "steady", "host-busy": "steady", "load": "load-1.5", "load-2": "load-2"}
"""What can be shown live, and the scene whose arrivals it has."""


@dataclass
class Watched:
    """What was seen of a run: the plans that served, what happened, and what the product said at the end."""

    run: str
    plans: list[Plan]
    happened: list[events.Event]
    hours: float
    usd: float
    said: tuple[float | None, float | None, str]
    retried: int = 0
    devices: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def replans(self) -> list[events.ReplanEnded]:
        """Those that were not asked for."""
        ended = [e for e in self.happened if isinstance(e, events.ReplanEnded)]
        return [e for e in ended if e.reason != "operator"]


def workflow_of(scene: str, args: argparse.Namespace, rate_rps: float) -> str:
    """The demo's workflow, with the SLO that is asked and a source that repeats."""
    text = (ROOT / "variants" / "read-signs" / "read-signs.yaml").read_text()
    text = text.replace("latency: {p95: 6 s}", f"latency: {{p95: {args.slo:g} s}}")
    text = text.replace("rate: 4/s", f"rate: {rate_rps:g}/s")
    source = f"path: signs/, rate: {rate_rps:g}/s"
    if not LIVE[scene].startswith("load"):
        more = f"{source}, repeat: true, arrivals: poisson, seed: {args.seed}"
    else:
        more = "path: signs/, repeat: true, arrivals: trace, trace: arrivals.txt"
    return text.replace(source, more)


def trace_of(scene: str, args: argparse.Namespace, rate_rps: float) -> list[float]:
    """The recorded arrivals of a scene in which the load changes; none where a source draws them itself."""
    if not LIVE[scene].startswith("load"):
        return []
    return list(
        arrivals(SCENES[LIVE[scene]], rate_rps, args.seconds, {"all": 1.0}, args.seed)["all"]
    )


class Stage:
    """The demo's mesh for one scene after the other; state and profiles stay in `folder`."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self._folder = folder
        self._args = args
        self._rate_rps: float = args.rate or RATE_RPS
        self._agents = folder / "agents"
        self._truth: dict[str, list[str]] = {}

    def prepare(self) -> None:
        """Photos for the cameras."""
        signs = [self._agents / camera / "data" / "signs" for camera in CAMERAS]
        for one in signs:
            one.mkdir(parents=True, exist_ok=True)
        self._truth = photos.render(signs, PHOTOS, PHOTO_SEED)

    async def play(self, scene: str) -> LiveRow:
        """One scene, from the start of the agents to their end."""
        trace = trace_of(scene, self._args, self._rate_rps)
        text = "\n".join(f"{at:.6f}" for at in trace) or "0.0"
        for camera in CAMERAS:
            (self._agents / camera / "data" / "arrivals.txt").write_text(text)
        home, name = config.home(), agents.mesh_of(self._folder)
        ladders = Ladders.open(ROOT / "variants", home)
        async with (
            agents.running(self._agents, name),
            Mesh.open(self._folder / "coordinator", ladders=ladders, home=home, name=name) as mesh,
        ):
            await mesh.discover(expect=len(DEVICES), timeout_s=30.0)
            await mesh.settle()
            path = self._folder / f"{scene}.yaml"
            path.write_text(workflow_of(scene, self._args, self._rate_rps))
            workflow = await mesh.read_workflow(path)
            await mesh.profile(workflow, options=PROFILE)
            watched = await self._kept(mesh, workflow, scene)
        return self._row(scene, watched, trace)

    async def _kept(self, mesh: Mesh, workflow: Workflow, scene: str) -> Watched:
        """Apply a first plan as a new run, then keep it as `coordinator run` does."""
        plan = await mesh.plan(workflow, PLAN, source_bytes=self._source_bytes())
        run = f"{scene}-{int(time.time())}"
        applied = await mesh.apply(plan, workflow=workflow, run=run)
        if applied.failures:
            raise TiermeshError("the rollout failed", why=str(dict(applied.failures)))
        since = (await mesh.history(limit=1))[-1].number
        keeping = Keeping(mesh, [workflow], options=PLAN, source_bytes=self._source_bytes())
        tasks = [asyncio.create_task(keeping.run()), asyncio.create_task(mesh.look_out())]
        try:
            await self._disturbed(scene)
            said = self._said(mesh, keeping, workflow.workflow)
            usd = spent_usd(mesh.fleet, mesh.fleet.running[workflow.workflow], mesh.now())
            await asyncio.sleep(DRAIN_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        happened = [e.event for e in await mesh.history(after=since, limit=100_000)]
        made = [
            mesh.fleet.plans[e.plan].plan for e in happened if isinstance(e, events.RolloutStarted)
        ]
        devices = {camera: _id_of(mesh, camera) for camera in CAMERAS}
        retried = _retried(keeping, run)
        hours = self._args.seconds / 3_600
        return Watched(run, [plan, *made], happened, hours, usd, said, retried, devices)

    async def _disturbed(self, scene: str) -> None:
        seconds = self._args.seconds
        await asyncio.sleep(FROM * seconds)
        count = self._args.busy if scene == "host-busy" else 0
        busy = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", BUSY, stdin=subprocess.DEVNULL
            )
            for _ in range(count)
        ]
        try:
            await asyncio.sleep((UNTIL - FROM) * seconds)
        finally:
            for process in busy:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        await asyncio.sleep((1 - UNTIL) * seconds)

    def _said(
        self, mesh: Mesh, keeping: Keeping, name: str
    ) -> tuple[float | None, float | None, str]:
        samples = [o.sample for o in keeping.newest.values() if o.sample is not None]
        found = attainment_of(name, mesh.fleet, samples, mesh.now())
        shares = [o.windows["run"].share for o in found.objectives if "run" in o.windows]
        share = shares[0] if shares else None
        return share, found.accuracy.served, f"{found.verdict.word}: {found.verdict.why}"

    def _source_bytes(self) -> dict[str, float]:
        sizes = [p.stat().st_size for p in self._agents.glob("*/data/signs/*.jpg")]
        return {"photos": sum(sizes) / len(sizes)}

    # From the sinks' files

    def _row(self, scene: str, watched: Watched, trace: Sequence[float]) -> LiveRow:
        seconds, slo_s = self._args.seconds, self._args.slo
        files = sorted(self._agents.glob("*/data/out/text.jsonl"))
        lines = records.lines(files, watched.run)
        sent = self._sent(lines, watched, trace)
        begun = min(s.due for s in sent)
        begin, end = begun + WARM_UP * seconds, begun + seconds - slo_s
        scored = [s for s in sent if begin <= s.due < end]
        from_s, until_s = begun + FROM * seconds, begun + UNTIL * seconds
        replans, plan = watched.replans, watched.plans[0]
        return LiveRow(
            scene=scene,
            seconds=seconds,
            seed=self._args.seed,
            slo_s=slo_s,
            offered=len(scored),
            attainment=records.share_within(scored, slo_s, begin, end),
            disturbed=records.share_within(scored, slo_s, from_s, until_s),
            recover_s=recover_s(scored, from_s, until_s, slo_s),
            p50_ms=records.percentile_ms(scored, 0.5),
            p95_ms=records.percentile_ms(scored, TARGET),
            predicted_p95_ms=plan.predicted.latency_ms.get("p95", 0.0),
            accuracy=photos.read(files, watched.run, self._truth).accuracy,
            errors=sum(line["outcome"] == "error" for line in lines),
            twice=len(lines) - len({line["id"] for line in lines}),
            cost_per_hour=watched.usd / watched.hours,
            planned_per_hour=plan.cost.total_per_hour,
            replans=dict(Counter(e.reason for e in replans)),
            rollouts=sum(e.outcome in ROLLED_OUT for e in replans),
            retried=watched.retried,
            product_attainment=watched.said[0],
            product_accuracy=watched.said[1],
            product_verdict=watched.said[2],
        )

    def _sent(
        self, lines: list[dict[str, object]], watched: Watched, trace: Sequence[float]
    ) -> list[records.Sent]:
        ended = {str(line["id"]): line for line in lines}
        spec = SourceSpec(
            path="signs/",
            rate_rps=None if trace else self._rate_rps,
            arrivals="trace" if trace else "poisson",
            seed=self._args.seed,
            repeat=True,
        )
        found: list[records.Sent] = []
        for name, share in records.shares_of(watched.plans).items():
            device = watched.devices[name]
            camera = records.camera(device, spec, share, watched.run, trace)
            found += camera.due(ended, self._args.seconds)
        return found


def _id_of(mesh: Mesh, name: str) -> str:
    device = mesh.fleet.named(name)
    return device.id if device is not None else name


def _retried(keeping: Keeping, run: str) -> int:
    samples = [o.sample for o in keeping.newest.values() if o.sample is not None]
    return sum(s.retried for sample in samples for s in sample.figures.sources if s.run == run)


def main(args: argparse.Namespace) -> None:
    """Print what was measured; write rows with `-o`."""
    scenes = [name for name in args.scenes.split(",") if name in LIVE]
    with contextlib.ExitStack() as stack:
        kept = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stage = Stage(kept, args)
        stage.prepare()
        rows: list[LiveRow] = []
        for scene in scenes:
            rows.append(asyncio.run(stage.play(scene)))
            print(records.markdown([rows[-1]]), file=sys.stderr, flush=True)
    if args.output is not None:
        args.output.write_text(json.dumps([row.plain() for row in rows], indent=1) + "\n")
    print(records.markdown(rows))
