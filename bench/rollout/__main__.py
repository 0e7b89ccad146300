"""A planned rollout under load: does a request fail, and what does it cost in latency? ``python bench/rollout``.

Three agents on loopback serve a steady stream of requests through one stage, which plans move from one hub to the
other and back. Latencies are those of the requests themselves, from the sink's file: accepted to finished, on one
device's clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import msgspec

from coordinator.cli.demo import agents
from coordinator.cli.demo.agents import DemoDevice
from coordinator.fleet.lifecycle import RolloutOutcome
from coordinator.mesh import Mesh
from coordinator.variants import Ladders
from tiermesh.documents.plan import Plan
from tiermesh.errors import TiermeshError

ROOT: Final = Path(__file__).parents[2]
DEVICES: Final = tuple(
    DemoDevice(name, tier, 0.01, threads=1, slowdown=1, usable_share=0.9)
    for name, tier in (("cam", "edge"), ("hub-1", "hub"), ("hub-2", "hub"))
)
WORKFLOW: Final = """
workflow: steady
slo: {{rate: {rate}/s}}
stages:
  files: {{source: files, path: in, rate: {rate}/s, arrivals: constant, repeat: true, devices: [cam]}}
  work:  {{map: code, from: files, tiers: [hub]}}
  out:   {{sink: jsonl, path: out.jsonl, from: work, devices: [cam]}}
"""
CODE: Final = """
import time


class Work:
    def __init__(self, files, options):
        pass

    def apply(self, payload):
        until = time.perf_counter() + 0.003
        while time.perf_counter() < until:
            pass
        return {"name": payload["name"]}
"""
AFTER_S: Final = 1.0
"""What a rollout costs is looked for until this long after its end."""


class Line(msgspec.Struct):
    """What of a line in the sink's file is used; times in Unix seconds."""

    id: str
    outcome: str
    accepted_at: float
    finished_at: float


@dataclass(frozen=True)
class Row:
    """One rollout: its seconds, and the p99 in ms of the requests before it and of those that met it."""

    seconds: float
    steady_p99_ms: float
    rollout_p99_ms: float
    requests: int
    failed: int

    @property
    def ratio(self) -> float:
        """How much the rollout raises the p99."""
        return self.rollout_p99_ms / self.steady_p99_ms


def p99_ms(lines: Sequence[Line]) -> float:
    """The 99th percentile of the requests' latencies."""
    ordered = sorted(line.finished_at - line.accepted_at for line in lines)
    return 1_000 * ordered[int(0.99 * (len(ordered) - 1))]


def row_of(lines: Sequence[Line], begun: float, ended: float, steady_s: float) -> Row:
    """What the requests around one rollout say of it."""
    until = ended + AFTER_S
    before = [x for x in lines if begun - steady_s <= x.accepted_at < begun - 0.1]
    during = [x for x in lines if x.finished_at >= begun and x.accepted_at <= until]
    failed = sum(x.outcome != "result" for x in during)
    return Row(ended - begun, p99_ms(before), p99_ms(during), len(during), failed)


def moved(plan: Plan, here: str, there: str) -> Plan:
    """The plan with one device in another's place."""
    text = json.dumps(msgspec.to_builtins(plan, enc_hook=float))
    swapped = text.replace(f"@{here}", f"@{there}").replace(f'"{here}"', f'"{there}"')
    return msgspec.json.decode(swapped, type=Plan)


async def rollouts(
    mesh: Mesh, plan: Plan, times: int, steady_s: float
) -> list[tuple[float, float]]:
    """Move the stage there and back; returns when each rollout began and ended."""
    (here,) = {r.device for r in plan.replicas if r.stage == "work"}
    (there,) = {"hub-1", "hub-2"} - {here}
    other = moved(plan, here, there)
    spans: list[tuple[float, float]] = []
    await applied(mesh, plan)
    for number in range(times):
        await asyncio.sleep(steady_s + AFTER_S)
        begun = time.time()
        await applied(mesh, plan if number % 2 else other)
        spans.append((begun, time.time()))
    await asyncio.sleep(2 * AFTER_S)
    return spans


async def applied(mesh: Mesh, plan: Plan) -> None:
    """Apply a plan, or say why that failed."""
    done = await mesh.apply(plan)
    if done.outcome is not RolloutOutcome.COMMITTED:
        raise TiermeshError("a rollout failed", why="; ".join(done.failures.values()))


def prepared(folder: Path, rate: int) -> Path:
    """The workflow with its code, and the source's files."""
    (folder / "code").mkdir()
    (folder / "code" / "stage.toml").write_text('entry = "work:Work"\n')
    (folder / "code" / "work.py").write_text(CODE)
    data = folder / "agents" / "cam" / "data" / "in"
    data.mkdir(parents=True)
    for number in range(50):
        (data / f"{number:02}.bin").write_bytes(os.urandom(8_000))
    path = folder / "steady.yaml"
    path.write_text(WORKFLOW.format(rate=rate))
    return path


async def measured(folder: Path, rate: int, times: int, steady_s: float) -> list[Row]:
    """Start a mesh, roll out under load, and read what the requests say."""
    workflow_path = prepared(folder, rate)
    ladders = Ladders.open(ROOT / "variants", folder)
    name = agents.mesh_of(folder)
    async with (
        agents.running(folder / "agents", name, DEVICES),
        Mesh.open(folder / "state", ladders=ladders, home=folder, name=name) as mesh,
    ):
        found = await mesh.discover(expect=len(DEVICES), timeout_s=30.0)
        if len(found) < len(DEVICES):
            raise TiermeshError("not all agents were found", why=f"found {len(found)}")
        plan = await mesh.plan(await mesh.read_workflow(workflow_path))
        spans = await rollouts(mesh, plan, times, steady_s)
    text = (folder / "agents" / "cam" / "data" / "out.jsonl").read_bytes()
    lines = [msgspec.json.decode(line, type=Line) for line in text.splitlines()]
    if len({line.id for line in lines}) != len(lines):
        raise TiermeshError("a request was delivered twice")
    return [row_of(lines, begun, ended, steady_s) for begun, ended in spans]


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=60, help="requests a second (default: 60)")
    parser.add_argument("--rollouts", type=int, default=6, metavar="N")
    parser.add_argument("--steady", type=float, default=6.0, metavar="S", help="between rollouts")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(measured(Path(folder), args.rate, args.rollouts, args.steady))
    if args.json:
        print(json.dumps([{**asdict(row), "ratio": row.ratio} for row in rows]))
        return
    print(
        f"{args.rate} requests/s; p99 in ms of the requests before, and of those that met, a rollout"
    )
    print("rollout s   steady p99   rollout p99   ratio   requests   failed")
    for row in rows:
        print(
            f"{row.seconds:9.2f}   {row.steady_p99_ms:10.1f}   {row.rollout_p99_ms:11.1f}"
            f"   {row.ratio:5.2f}   {row.requests:8}   {row.failed:6}"
        )


if __name__ == "__main__":
    main()
