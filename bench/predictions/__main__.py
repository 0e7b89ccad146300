"""Predicted against measured latency of the OCR workflow on a mesh of real agents: ``python bench/predictions``.

Three agents on loopback, made slower by time dilation, so that the machine has room for all of them. Each round
profiles, plans for the most that the devices can do, and replays Poisson and bursty arrivals at three loads of the
bottleneck. Profile and serving lie close together in time: other work on the machine moves both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Final

import estimates
import logs
from estimates import Latency
from logs import Findings

from coordinator.cli.demo import agents, photos
from coordinator.cli.demo.agents import DemoDevice
from coordinator.cli.demo.serving import Served
from coordinator.planning import Objective, Options
from coordinator.profiling import ProfileOptions
from coordinator.runner import Mesh
from coordinator.variants import Ladders
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem
from tiermesh.errors import TiermeshError

ROOT: Final = Path(__file__).parents[2]
HERE: Final = Path(__file__).parent
SHARE: Final = 0.9
LOADS: Final = (0.3, 0.6, 0.85)
KINDS: Final = ("poisson", "bursty")
MOST_PHOTOS: Final = 400
PROFILE: Final = ProfileOptions(
    batch_sizes=(1, 2, 4), time_limit_s=4.0, interval=0.03, min_repeats=8, max_repeats=60
)


def devices(slowdown: float) -> list[DemoDevice]:
    """Three equal devices of different tiers."""
    places = (("cam", "edge", 0.004), ("hub", "hub", 0.006), ("server", "datacenter", 0.02))
    return [
        DemoDevice(*place, threads=1, slowdown=slowdown, usable_share=SHARE) for place in places
    ]


@dataclass(frozen=True)
class Row:
    """One replay: what was offered, predicted and measured, and why they differ.

    `planner` assumes Poisson arrivals; `planner_on_trace` plays the replayed ones; `as_served` does, with the batch
    times of the run in place of the profiled ones; `single_servers` takes each replica alone.
    """

    kind: str
    load: float
    rate_rps: float
    requests: int
    planner: Latency
    planner_on_trace: Latency
    as_served: Latency
    single_servers: Latency
    measured: Latency
    found: Findings


class Bench:
    """The mesh, while agents run."""

    def __init__(self, mesh: Mesh, folder: Path, names: Sequence[str], seconds: float) -> None:
        self._mesh = mesh
        self._folders = [folder / name for name in names]
        self._seconds = seconds
        self._runs = 0

    async def round(self, number: int) -> list[Row]:
        """Profile, plan, replay."""
        mesh = self._mesh
        workflow = await mesh.read_workflow(HERE / "read-signs.yaml")
        await mesh.profile(workflow, options=PROFILE, again=True)
        problem = await mesh.problem(workflow)
        plan = await mesh.solve(problem, Options(objective=Objective.THROUGHPUT, time_limit_s=20))
        await mesh.plan_made(plan)
        device, busy = estimates.busiest(plan)
        print(
            f"\nround {number}: {plan.predicted.throughput_rps:.2f}/s keep {device} {busy:.0%} busy"
        )
        for r in plan.replicas:
            if r.variant:
                print(
                    f"  {r.id}: {r.rate_rps:.2f} items/s, batches of {r.batch_size}, {r.utilization:.0%}"
                )
        print(HEADER, flush=True)
        rows: list[Row] = []
        for load in LOADS:
            for kind in KINDS:
                scale = load / busy
                times = estimates.arrivals(
                    kind, scale * plan.predicted.throughput_rps, self._seconds, 100 * number
                )
                rows.append(await self._replay(problem, plan, kind, load, times))
                print(line(rows[-1]), flush=True)
        return rows

    async def _replay(
        self, problem: Problem, plan: Plan, kind: str, load: float, times: Sequence[float]
    ) -> Row:
        """One run of the plan under recorded arrivals."""
        times = times[:MOST_PHOTOS]
        (self._folders[0] / "data" / "arrivals.txt").write_text(
            "\n".join(f"{t:.6f}" for t in times)
        )
        self._runs += 1
        run = f"{kind}-{int(time.time())}-{self._runs}"
        applied = await self._mesh.apply(plan, run=run)
        if applied.failures:
            raise TiermeshError("the rollout failed", why=str(applied.failures))
        served = Served(plan.workflow, len(times))
        await served.watch(self._mesh, 3 * times[-1] + 60, lambda _: None)
        if not served.finished:
            raise TiermeshError("requests were lost or late", why="; ".join(served.events[-5:]))
        await asyncio.sleep(1.0)  # the logs are written every half second
        logged = logs.entries(self._folders, applied.generation)
        rate = len(times) / times[-1]
        found = logs.findings(logged, problem, plan)
        real = estimates.as_served(problem, found.slower)
        return Row(
            kind=kind,
            load=load,
            rate_rps=rate,
            requests=len(times),
            planner=estimates.by_planner(problem, plan, rate / plan.predicted.throughput_rps),
            planner_on_trace=estimates.by_planner_on(problem, plan, times),
            as_served=estimates.by_planner_on(real, plan, times),
            single_servers=estimates.by_single_servers(problem, plan, times),
            measured=Latency.of(self._latencies(run)),
            found=found,
        )

    def _latencies(self, run: str) -> list[float]:
        path = self._folders[0] / "data" / "out" / "text.jsonl"
        ended = [json.loads(text) for text in path.read_text().splitlines()]
        return [e["finished_at"] - e["accepted_at"] for e in ended if e["run"] == run]


PREDICTIONS: Final = ("planner", "planner_on_trace", "as_served", "single_servers", "measured")
HEADER: Final = (
    f"{'arrivals':>9} {'load':>5} {'rate':>6} {'n':>4} | {'measured':>12} | {'planner':>18} | "
    f"{'same, on trace':>18} | {'same, as served':>18} | {'single servers':>18} | "
    "slower  hop ms  busy\n"
    f"{'':>27} | {'p50':>6}{'p95':>6} |" + f" {'p50':>6}{'p95':>6}{'off':>6} |" * 4
)


def line(row: Row) -> str:
    """A row of the table; `off` is that of p95, predicted over measured."""
    told = [row.planner, row.planner_on_trace, row.as_served, row.single_servers]
    parts = [f"{t.p50:6.0f}{t.p95:6.0f}{t.p95 / row.measured.p95 - 1:+6.0%}" for t in told]
    slower = " ".join(f"{of:.2f}" for of in row.found.slower.values())
    return (
        f"{row.kind:>9} {row.load:5.2f} {row.rate_rps:5.2f}/s {row.requests:4} | "
        f"{row.measured.p50:6.0f}{row.measured.p95:6.0f} | {' | '.join(parts)} | "
        f"{slower}  {row.found.hop_p50_ms:.1f} {row.found.hop_p95_ms:.1f}  {row.found.busiest:.0%}"
    )


@asynccontextmanager
async def meshed(home: Path, slowdown: float) -> AsyncGenerator[tuple[Mesh, Path, list[str]]]:
    """Agents with photos, and a coordinator that has found them."""
    folder = home / "predictions" / "agents"
    ladders = Ladders.open(ROOT / "variants", home)
    made = devices(slowdown)
    signs = folder / made[0].name / "data" / "signs"
    if len(list(signs.glob("*.jpg"))) < MOST_PHOTOS:
        signs.mkdir(parents=True, exist_ok=True)
        print(f"rendering {MOST_PHOTOS} photos")
        await asyncio.to_thread(photos.render, [signs], MOST_PHOTOS, 7)
    (signs.parent / "arrivals.txt").write_text("0.0")
    state = home / "predictions" / "coordinator"
    mesh_name = agents.mesh_of(folder)
    async with (
        agents.running(folder, mesh_name, made),
        Mesh.open(state, ladders=ladders, home=home, name=mesh_name) as mesh,
    ):
        found = await mesh.discover(expect=len(made), timeout_s=30)
        if len(found) < len(made):
            raise TiermeshError("not all agents answered", fix=f"See the logs in {folder}")
        yield mesh, folder, [device.name for device in made]


async def measure(args: argparse.Namespace) -> list[Row]:
    """All rounds."""
    rows: list[Row] = []
    home = Path(os.environ.get("TIERMESH_HOME", ROOT / ".tiermesh"))
    async with meshed(home, args.slowdown) as (mesh, folder, names):
        bench = Bench(mesh, folder, names, args.seconds)
        for number in range(1, args.rounds + 1):
            rows += await bench.round(number)
    return rows


def summary(rows: Sequence[Row]) -> None:
    """The mean over rounds, load by load."""
    print(f"\nmean of the rounds\n{HEADER}")
    for load in LOADS:
        for kind in KINDS:
            of = [r for r in rows if (r.kind, r.load) == (kind, load)]
            figures = {
                name: Latency(
                    *(fmean(p) for p in zip(*(getattr(r, name) for r in of), strict=True))
                )
                for name in PREDICTIONS
            }
            print(line(replace(of[-1], **figures)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench/predictions", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each replay")
    parser.add_argument("--slowdown", type=float, default=10.0, help="of each device, emulated")
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    args = parser.parse_args()
    rows = asyncio.run(measure(args))
    if args.rounds > 1:
        summary(rows)
    if args.output:
        args.output.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
