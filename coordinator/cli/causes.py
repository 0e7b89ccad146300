"""`coordinator explain --now`: why running workflows miss their SLO, or may come to, by measurement."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from coordinator import config
from coordinator.cli.output import Output
from coordinator.cli.text import clean
from coordinator.fleet.lifecycle import DeviceState
from tiermesh.errors import InvalidDocument

if TYPE_CHECKING:
    from coordinator.fleet.state import Device, Fleet
    from coordinator.keeping.load_monitor import Measuring
    from coordinator.mesh import Mesh
    from coordinator.replanning.causes import Cause
    from coordinator.replanning.corrected_prediction import CorrectedPrediction
    from coordinator.telemetry.watching import Observed

SAMPLES_S: Final = 0.5
SILENT_S: Final = 3.0


def explain_now(args: argparse.Namespace, output: Output) -> int:
    """Measure for a while, and say what is otherwise than planned; returns the exit code."""
    found = asyncio.run(_explained(args))
    for one in found:
        _show(one, output)
    if not found:
        output.console.print("nothing runs")
    output.document({"workflows": found})
    return 0


def _show(one: Mapping[str, Any], output: Output) -> None:
    say = output.console.print
    say(f"[bold]{clean(one['workflow'])}[/], generation {one['generation']}")
    for cause in one["causes"]:
        say(f"  {cause['kind']}: {clean(cause['text'])}")
    if not one["causes"]:
        say("  nothing is significantly otherwise than planned")
    predicted, expected = one["predicted_ms"], one["expected_ms"]
    for name, ms in expected.items():
        say(f"  latency {name} expected now {ms:.0f} ms (predicted {predicted.get(name, 0.0):.0f})")


async def _explained(args: argparse.Namespace) -> list[dict[str, Any]]:
    from coordinator.mesh import Mesh

    state = args.state or config.state_dir()
    async with Mesh.open(state, read_only=True, credentials=args.credentials) as mesh:
        names = _names(mesh.fleet, args.plan)
        await mesh.discover(browse=False)
        made = {name: measuring_of(mesh.fleet, name) for name in names}
        newest = await _listened(mesh, made, args.interval)
        return [
            await asyncio.to_thread(_one, mesh.fleet, measuring, newest)
            for measuring in made.values()
        ]


def _names(fleet: Fleet, only: object) -> list[str]:
    names = sorted(fleet.running)
    if only is None:
        return names
    if str(only) not in names:
        known = ", ".join(names) or "nothing"
        raise InvalidDocument(f"`{only}` does not run", fix=f"Running: {known}")
    return [str(only)]


def measuring_of(fleet: Fleet, name: str) -> Measuring:
    """What a running workflow is measured against: its plan, with the profiles that there are now."""
    from coordinator.keeping.load_monitor import Measuring
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
    return Measuring(problem, {}, plan, running.run, running.generation)


def _as_planned(fleet: Fleet, used: Collection[str]) -> Fleet:
    """With the devices of a plan as they were when it was made: one that is lost has its profiles still."""
    ready = {
        d: structs.replace(device, state=DeviceState.READY) if d in used else device
        for d, device in fleet.devices.items()
    }
    return structs.replace(fleet, devices=ready)


async def _listened(
    mesh: Mesh, made: Mapping[str, Measuring], interval_s: float
) -> dict[str, Observed]:
    """Take in what the devices say for `interval_s` seconds; the newest of each, by id."""
    used = {d for name in made for d in mesh.fleet.running[name].devices}
    devices: list[Device] = [mesh.fleet.devices[d] for d in sorted(used)]
    newest: dict[str, Observed] = {}
    try:
        async with asyncio.timeout(interval_s + SILENT_S):
            begun = asyncio.get_running_loop().time()
            async for observed in mesh.watch(devices=devices, interval_s=SAMPLES_S):
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


def _one(fleet: Fleet, measuring: Measuring, newest: Mapping[str, Observed]) -> dict[str, Any]:
    from coordinator.keeping.evidence import evidence_of
    from coordinator.replanning.causes import causes
    from coordinator.replanning.corrected_prediction import while_serving

    drifts = measuring.drifts()
    found = causes(evidence_of(fleet, measuring, drifts, newest))
    return _document(measuring, found, while_serving(measuring.problem, measuring.plan, drifts))


def _document(measuring: Measuring, found: list[Cause], now: CorrectedPrediction) -> dict[str, Any]:
    load = measuring.load()
    return {
        "workflow": measuring.problem.name,
        "generation": measuring.generation,
        "causes": [asdict(cause) for cause in found],
        "load": asdict(load) if load is not None else None,
        "predicted_ms": dict(measuring.plan.predicted.latency_ms),
        "expected_ms": dict(now.latency_ms),
        "corrections": {replica: asdict(ratio) for replica, ratio in now.corrections.items()},
    }
