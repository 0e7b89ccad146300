"""Record the demo for the tests and pictures of the TUI: `PYTHONPATH=.:proto python tests/tui/record.py STATE`.

It serves for a while, the agent of the busiest hub is killed, and the mesh answers. The journal before is left out,
but for what was measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from coordinator import config
from coordinator.cli.demo import agents
from coordinator.cli.demo.holding import HeldDemo
from coordinator.fleet.events import ProfileMeasured, WorkflowRecorded
from coordinator.journal.store import Entry
from coordinator.tui import messages as m
from coordinator.tui.live import LiveSession
from tests.tui.recording import Heard, Recording

SERVE_S = 25.0
AFTER_S = 20.0
VICTIM = "hub-1"


class Recorder:
    """Takes the messages of a session. `known` is what of the journal before it matters: profiles and workflows."""

    def __init__(self, now: float) -> None:
        self.recording = Recording(now)
        self.known: dict[object, Entry] = {}
        self.serves, self.answered = asyncio.Event(), asyncio.Event()
        self._last: dict[str, float] = {}

    def post(self, message: Any) -> None:
        """Keep what must be kept."""
        began = self.recording.began_at
        if isinstance(message, m.Journalled):
            for entry in message.entries:
                self._entry(entry, entry.event.at - began)
        elif isinstance(message, m.SamplesArrived):
            for observed in message.observed:
                at = observed.received_at
                if (
                    observed.sample is not None
                    and at - self._last.get(observed.device.id, 0.0) < 0.9
                ):
                    continue
                self._last[observed.device.id] = at
                sample = observed.sample.SerializeToString() if observed.sample else None
                heard = Heard(observed.device.id, sample, observed.why, observed.link)
                self.recording.moments.append((at - began, heard))
        elif isinstance(message, m.WorkEnded):
            print(message, flush=True)
            if message.what == "plan and roll out":
                self.serves.set()

    def _entry(self, entry: Entry, t: float) -> None:
        event = entry.event
        if isinstance(event, ProfileMeasured):
            self.known[event.profile.device_class, event.profile.variant_digest] = entry
        elif isinstance(event, WorkflowRecorded):
            self.known[event.workflow] = entry
        elif t >= 0:
            self.recording.moments.append((t, entry))
            if event.kind == "replan-ended" and self.serves.is_set():
                self.answered.set()

    def finished(self) -> Recording:
        """The recording, what was measured first."""
        known = [(0.0, entry) for entry in self.known.values()]
        later = sorted(self.recording.moments, key=lambda moment: moment[0])
        planned = next(t for t, w in later if isinstance(w, Entry) and w.event.kind == "plan-made")
        kept = [moment for moment in later if moment[0] >= planned or _is_introduction(moment[1])]
        self.recording.moments = [*known, *kept]
        return self.recording


def _is_introduction(what: object) -> bool:
    """What is kept of the time before the plan: who is there. An earlier demo's mesh is none of its business."""
    return isinstance(what, Entry) and what.event.kind in ("device-discovered", "device-described")


async def main(folder: Path) -> None:
    """Record."""
    started: list[agents.AgentProcess] = []
    running = agents.running

    @contextlib.asynccontextmanager
    async def noted(*args: Any, **more: Any):
        async with running(*args, **more) as processes:
            started.extend(processes)
            yield processes

    agents.running = noted
    held = HeldDemo(home=config.home(), folder=folder, variants=Path("variants"))
    session = LiveSession(
        held.opening, title="demo", expect=len(agents.DEVICES), timeout_s=20.0, begin=held.begin
    )
    recorder = Recorder(session.now())
    task = asyncio.ensure_future(session.run(recorder.post))
    await asyncio.wait_for(recorder.serves.wait(), 170)
    await asyncio.sleep(SERVE_S)
    victim = next(p for p in started if p.device.name == VICTIM)
    os.kill(victim.process.pid, signal.SIGKILL)
    await asyncio.wait_for(recorder.answered.wait(), 60)
    await asyncio.sleep(AFTER_S)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    recording = recorder.finished()
    recording.save()
    print(len(recording.moments), "moments")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
