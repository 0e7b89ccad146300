"""Predicted against measured latency of the OCR workflow on a mesh of real agents: ``python bench/predictions``.

Three agents on loopback, made slower by time dilation, so that the machine has room for all of them. A round profiles,
plans for the most that the devices can do, serves a little to correct the profiles by what batches take then, and
replays Poisson and bursty arrivals at given loads of the bottleneck.
Profile and serving lie close together in time: other work on the machine moves both. `--table` shows rows of rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import estimates
import logs
import msgspec
import table
from estimates import Latency
from table import Row

from coordinator.cli.demo import agents, photos
from coordinator.cli.demo.agents import DemoDevice
from coordinator.cli.demo.serving import DemoSamples
from coordinator.mesh import Mesh
from coordinator.planning import Options, PlanObjective
from coordinator.planning.simulate import WARM_UP
from coordinator.profiling.profiler import ProfileOptions
from coordinator.telemetry.drift import Drift, Key, corrected_problem
from coordinator.variants import Ladders
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem
from tiermesh.documents.reading import encode_json
from tiermesh.errors import TiermeshError

ROOT: Final = Path(__file__).parents[2]
HERE: Final = Path(__file__).parent
SHARE: Final = 0.9
KINDS: Final = ("poisson", "bursty")
MOST_PHOTOS: Final = 800


def devices(slowdown: float) -> list[DemoDevice]:
    """Three equal devices of different tiers."""
    places = (("cam", "edge", 0.004), ("hub", "hub", 0.006), ("server", "datacenter", 0.02))
    return [
        DemoDevice(*place, threads=1, slowdown=slowdown, usable_share=SHARE) for place in places
    ]


class Bench:
    """The mesh, while agents run."""

    def __init__(self, mesh: Mesh, folder: Path, args: argparse.Namespace) -> None:
        self._mesh = mesh
        self._args = args
        self._folders = [folder / device.name for device in devices(args.slowdown)]
        self._runs = 0
        self._drifts: dict[Key, Drift] = {}

    async def round(self) -> list[Row]:
        """Profile, plan, replay."""
        mesh, args = self._mesh, self._args
        workflow = await mesh.read_workflow(HERE / "read-signs.yaml")
        options = ProfileOptions(
            batch_sizes=(1, 2, 3, 4),
            time_limit_s=args.profile_seconds,
            interval=0.01,
            min_repeats=12,
            max_repeats=200,
        )
        await mesh.profile(workflow, options=options, again=True)
        problem = await mesh.problem(workflow)
        plan = await mesh.solve(
            problem, Options(objective=PlanObjective.THROUGHPUT, time_limit_s=10)
        )
        await mesh.plan_made(plan)
        _, busy = estimates.busiest(plan, self._drifts)
        rate = args.loads[0] / busy * plan.predicted.throughput_rps
        times = estimates.arrivals("poisson", rate, args.calibration_seconds, args.seed)
        await self._serve(problem, plan, times)
        device, busy = estimates.busiest(plan, self._drifts)
        print(f"{plan.predicted.throughput_rps:.2f}/s keep {device} {busy:.0%} busy", flush=True)
        rows: list[Row] = []
        for load in args.loads:
            for kind in KINDS:
                rate = load / busy * plan.predicted.throughput_rps
                seed = int(1000 * args.seed + 100 * load)
                times = estimates.arrivals(kind, rate, args.seconds, seed)
                rows.append(await self._replay(problem, plan, (kind, load), times))
                print(table.in_full([rows[-1]]), flush=True)
        return rows

    async def _replay(
        self, problem: Problem, plan: Plan, offered: tuple[str, float], times: Sequence[float]
    ) -> Row:
        """One run of the plan under recorded arrivals, predicted before and after."""
        times, (kind, load) = times[:MOST_PHOTOS], offered
        rate = len(times) / times[-1]
        profiled = estimates.on_trace(problem, plan, times)
        predicted = estimates.corrected(problem, plan, times, self._drifts)
        forecast = estimates.forecast(problem, plan, self._drifts, (kind, rate))
        self._keep(problem, plan, f"{kind}-{load:g}", times)
        run, served, logged = await self._serve(problem, plan, times)
        return Row(
            kind=kind,
            load=load,
            rate_rps=rate,
            requests=len(times),
            measured=Latency.of(self._latencies(run)),
            predicted=predicted,
            profiled=profiled,
            hindsight=estimates.corrected(problem, plan, times, self._drifts),
            forecast=forecast,
            retuned=sum(" -> " in event for event in served.events),
            found=logs.findings(logged, problem, plan),
        )

    async def _serve(
        self, problem: Problem, plan: Plan, times: Sequence[float]
    ) -> tuple[str, DemoSamples, list[dict[str, Any]]]:
        """Serve these arrivals; what the batches took corrects what is predicted from then on."""
        lines = "\n".join(f"{t:.6f}" for t in times)
        (self._folders[0] / "data" / "arrivals.txt").write_text(lines)
        self._runs += 1
        run = f"run-{int(time.time())}-{self._runs}"
        applied = await self._mesh.apply(plan, run=run)
        if applied.failures:
            raise TiermeshError("the rollout failed", why=str(applied.failures))
        served = DemoSamples(plan.workflow, len(times))
        await served.watch(self._mesh, 3 * times[-1] + 60, lambda _: None)
        if not served.finished:
            raise TiermeshError("requests were lost or late", why="; ".join(served.events[-5:]))
        await asyncio.sleep(1.0)  # the logs are written every half second
        logged = logs.entries(self._folders, applied.generation)
        self._drifts = logs.drifts(logged, problem, plan)
        return run, served, logged

    def _latencies(self, run: str) -> list[float]:
        """As a simulation counts them: by acceptance, without those of the warm-up."""
        path = self._folders[0] / "data" / "out" / "text.jsonl"
        ended = [json.loads(text) for text in path.read_text().splitlines()]
        own = sorted((e["accepted_at"], e["finished_at"]) for e in ended if e["run"] == run)
        return [end - begun for begun, end in own[int(WARM_UP * len(own)) :]]

    def _keep(self, problem: Problem, plan: Plan, name: str, times: Sequence[float]) -> None:
        """Keep what is predicted from: `coordinator simulate NAME.json --arrivals NAME.txt` says the same."""
        folder: Path | None = self._args.keep
        if folder is None:
            return
        right = corrected_problem(problem, self._drifts)
        made_for = msgspec.structs.replace(plan.made_for, problem=right.digest)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_bytes(
            encode_json(msgspec.structs.replace(plan, made_for=made_for))
        )
        (folder / f"{name}.problem.json").write_bytes(encode_json(right))
        (folder / f"{name}.txt").write_text("\n".join(f"{t:.6f}" for t in times))


@asynccontextmanager
async def meshed(home: Path, slowdown: float) -> AsyncGenerator[tuple[Mesh, Path]]:
    """Agents with photos, and a coordinator that has found them."""
    folder = home / "predictions" / "agents"
    ladders = Ladders.open(ROOT / "variants", home)
    made = devices(slowdown)
    render(folder / made[0].name / "data")
    state = home / "predictions" / "coordinator"
    mesh_name = agents.mesh_of(folder)
    async with (
        agents.running(folder, mesh_name, made),
        Mesh.open(state, ladders=ladders, home=home, name=mesh_name) as mesh,
    ):
        found = await mesh.discover(expect=len(made), timeout_s=30)
        if len(found) < len(made):
            raise TiermeshError("not all agents answered", fix=f"See the logs in {folder}")
        yield mesh, folder


def render(data: Path) -> None:
    """The photos that are replayed, unless they are there."""
    signs = data / "signs"
    if len(list(signs.glob("*.jpg"))) < MOST_PHOTOS:
        signs.mkdir(parents=True, exist_ok=True)
        print(f"rendering {MOST_PHOTOS} photos")
        photos.render([signs], MOST_PHOTOS, 7)
    (data / "arrivals.txt").write_text("0.0")


async def measure(args: argparse.Namespace) -> list[Row]:
    """A round."""
    home = Path(os.environ.get("TIERMESH_HOME", ROOT / ".tiermesh"))
    async with meshed(home, args.slowdown) as (mesh, folder):
        return await Bench(mesh, folder, args).round()


def main() -> None:
    """Measure and print, or show what was measured."""
    parser = argparse.ArgumentParser(prog="bench/predictions", description=__doc__)
    parser.add_argument("--loads", type=_numbers, default=(0.3, 0.6, 0.85), metavar="X,X")
    parser.add_argument("--seconds", type=float, default=70.0, help="of each replay")
    parser.add_argument("--profile-seconds", type=float, default=7.0, help="of each variant")
    parser.add_argument("--calibration-seconds", type=float, default=25.0, help="served first")
    parser.add_argument("--slowdown", type=float, default=5.0, help="of each device, emulated")
    parser.add_argument("--seed", type=int, default=1, help="of the arrivals")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="for plans, problems and traces")
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    parser.add_argument("--table", type=Path, nargs="+", metavar="ROWS", help="show these rows")
    args = parser.parse_args()
    if args.table:
        kept = [
            r for path in args.table for r in msgspec.json.decode(path.read_bytes(), type=list[Row])
        ]
        print(table.in_short(kept), table.in_full(kept), sep="\n\n")
        return
    rows = asyncio.run(measure(args))
    if args.output:
        args.output.write_bytes(msgspec.json.encode(rows))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(word) for word in text.split(","))


if __name__ == "__main__":
    main()
