"""``deploying.py JSON``: find the devices of a mesh, plan a workflow, spread it over lanes with backups, roll it out.

It runs in the coordinator's namespace, as the coordinator would. The planner's plan is kept but for its placement: a
test says which devices carry what, so that each stage has a backup for every lane.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from msgspec.structs import replace

from coordinator.fleet.lifecycle import RolloutOutcome
from coordinator.mesh import Mesh
from coordinator.variants import Ladders
from tiermesh.documents.plan import Lane, Plan, Replica
from tiermesh.wire import INSECURE_LAN, LOOPBACK

TIMEOUT_S = 40.0


@dataclass(frozen=True)
class Deployment:
    """What to roll out. `lanes` map each stage to its device and its backup's."""

    mesh: str
    folder: str
    devices: int
    run: str
    lanes: list[dict[str, list[str]]]
    insecure_lan: bool = True

    @property
    def command(self) -> list[str]:
        """The command line that does it, but for the namespace."""
        return [sys.executable, "-m", "tests.mesh.deploying", json.dumps(asdict(self))]


async def deploy(asked: Deployment) -> None:
    """Do it; raises what fails."""
    folder = Path(asked.folder)
    ladders = await asyncio.to_thread(Ladders.open, Path("variants"), folder / "home")
    async with Mesh.open(
        folder / "state",
        ladders=ladders,
        home=folder / "home",
        name=asked.mesh,
        credentials=INSECURE_LAN if asked.insecure_lan else LOOPBACK,
    ) as mesh:
        await mesh.discover(expect=asked.devices, timeout_s=TIMEOUT_S)
        plan = await mesh.plan(await mesh.read_workflow(folder / "workflow.yaml"))
        applied = await mesh.apply(spread(plan, asked.lanes), run=asked.run)
    if applied.outcome is not RolloutOutcome.COMMITTED:
        raise SystemExit(f"{applied.outcome}: {applied.failures}")


def spread(plan: Plan, lanes: list[dict[str, list[str]]]) -> Plan:
    """The plan on these lanes, in equal shares."""
    pattern = {replica.stage: replica for replica in plan.replicas}
    places = {
        (stage, device): replace(pattern[stage], id=f"{stage}@{device}", device=device)
        for lane in lanes
        for stage, devices in lane.items()
        for device in devices
    }

    def id_of(stage: str, device: str) -> str:
        made: Replica = places[stage, device]
        return made.id

    return replace(
        plan,
        replicas=list(places.values()),
        lanes=[
            Lane(
                share=1 / len(lanes),
                path={stage: id_of(stage, devices[0]) for stage, devices in lane.items()},
                backup={
                    stage: id_of(stage, devices[1])
                    for stage, devices in lane.items()
                    if len(devices) > 1
                },
            )
            for lane in lanes
        ],
    )


if __name__ == "__main__":
    asyncio.run(deploy(Deployment(**json.loads(sys.argv[1]))))
