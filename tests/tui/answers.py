"""What the planner answers to the recorded demo: `PYTHONPATH=.:proto python tests/tui/answers.py`.

The fleet is the recorded one while all is well, more is asked of it, and the app's own search and frontier are kept as
they were told. Recorded, since how long a search takes is never the same twice.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from coordinator.tui.model.candidate import (
    AccuracyAlternative,
    Asking,
    PlanAnswer,
    Search,
    SearchStep,
)
from tests.tui.recording import Recording
from tiermesh.documents.plan import Plan

PATH = Path(__file__).parent / "recordings" / "answer.json"
ASKING = Asking(number=1, workflow="read-signs", changes={"rate": "6/s"})


def load() -> PlanAnswer:
    """The recorded answer."""
    plain = json.loads(PATH.read_bytes())
    return PlanAnswer(
        asking=ASKING,
        search=Search.FOUND,
        plan=msgspec.convert(plain["plan"], Plan),
        steps=[SearchStep(**step) for step in plain["steps"]],
        seconds=plain["seconds"],
        frontier=[AccuracyAlternative(**choice) for choice in plain["frontier"]],
    )


class RecordedMesh:
    """As much of a coordinator as the planner is asked with."""

    def __init__(self, recording: Recording, source_bytes: dict[str, float]) -> None:
        from coordinator import config
        from coordinator.variants import Ladders

        self.fleet = recording.fleet(recording.time_of("device-failed") - 2.0)
        self._ladders = Ladders.open(Path("variants"), config.home())
        self._source_bytes = source_bytes
        self._added: dict[str, Any] = {}

    async def add_workflow(self, text: str, _folder: str) -> Any:
        from coordinator.tui.model.slo_fields import parsed

        workflow = parsed(text)
        self._added[workflow.digest] = workflow
        return workflow

    async def problem(self, workflow: str, *, without_devices: Any = ()) -> Any:
        from coordinator.fleet.file import FleetFile
        from coordinator.planning.snapshot import snapshot
        from coordinator.planning.snapshot import without_devices as without
        from coordinator.workflows.catalogue import accuracy_of

        added = self._added[workflow]
        made = snapshot(
            self.fleet,
            added,
            self.fleet.running[added.workflow].catalogue,
            accuracy=accuracy_of(added, self._ladders),
            network=FleetFile(),
            source_bytes=self._source_bytes,
        )
        return without(made.problem, set(without_devices))


def _photo_bytes() -> float:
    """What one of the demo's photos takes, in the mean."""
    from coordinator.cli.demo import holding, photos

    with tempfile.TemporaryDirectory() as folder:
        photos.render([Path(folder)], holding.PHOTOS, holding.SEED)
        sizes = [path.stat().st_size for path in Path(folder).glob("*.jpg")]
    return sum(sizes) / len(sizes)


async def main() -> None:
    """Ask, and keep what was answered."""
    from coordinator.tui.solving import Solving

    told: list[PlanAnswer] = []
    mesh: Any = RecordedMesh(Recording.load(), {"photos": _photo_bytes()})
    solving = Solving(mesh, lambda m: told.append(m.candidate), lambda: mesh.fleet)
    await solving.solve(ASKING)
    await solving.frontier(ASKING)
    found = told[-1]
    kept = {
        "plan": found.plan,
        "seconds": found.seconds,
        "steps": found.steps,
        "frontier": found.frontier,
    }
    PATH.write_bytes(msgspec.json.format(msgspec.json.encode(kept, enc_hook=float), indent=1))
    print(found.search, found.why, found.steps, *found.frontier, sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
