"""A real demo as it was: the journal and the samples of one run, and a session that plays them.

Recorded by `python tests/tui/record.py`: the demo's mesh serves, an agent is killed, and the mesh answers.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from coordinator.fleet import Fleet, replay
from coordinator.fleet.events import Event
from coordinator.journal.store import Entry
from coordinator.sessions.link_quality import LinkQuality
from coordinator.telemetry.watching import Observed
from coordinator.tui import messages as m
from tiermesh.errors import TiermeshError
from tiermesh.v1 import telemetry_pb2

PATH = Path(__file__).parent / "recordings" / "demo.jsonl.gz"
_EVENT = msgspec.json.Decoder(Event)


class Heard(NamedTuple):
    """A sample of a device (by id) as bytes, or why there is none; and what its link was like."""

    device: str
    sample: bytes | None
    why: str
    link: LinkQuality | None


@dataclass
class Recording:
    """What happened, in order: (seconds since the beginning, an entry of the journal or a sample)."""

    began_at: float
    moments: list[tuple[float, Entry | Heard]] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path = PATH) -> Recording:
        """Read a recording."""
        with gzip.open(path, "rt", encoding="utf-8") as file:
            head = json.loads(file.readline())
            lines = file.readlines()
        recording = cls(head["began_at"])
        for line in _as_named_now(lines):
            plain = json.loads(line)
            recording.moments.append((plain["t"], _what(plain)))
        return recording

    def save(self, path: Path = PATH) -> None:
        """Write it, smallest first."""
        path.parent.mkdir(exist_ok=True)
        with gzip.GzipFile(path, "wb", mtime=0) as file:
            file.write(json.dumps({"began_at": self.began_at}).encode() + b"\n")
            for t, what in self.moments:
                file.write(json.dumps({"t": round(t, 3), **_plain(what)}).encode() + b"\n")

    def time_of(self, kind: str, *, last: bool = False) -> float:
        """When the first event of a kind happened (or the last), in seconds since the beginning."""
        found = [
            t for t, w in self.moments if t > 0 and isinstance(w, Entry) and w.event.kind == kind
        ]
        return found[-1 if last else 0]

    def entries(self, until: float) -> list[Entry]:
        """The journal at a time."""
        return [w for t, w in self.moments if t <= until and isinstance(w, Entry)]

    def fleet(self, until: float) -> Fleet:
        """The state at a time."""
        return replay(entry.event for entry in self.entries(until))

    def observed(self, until: float, since: float = 0.0) -> list[Observed]:
        """The samples between two times."""
        devices = self.fleet(until).devices
        found: list[Observed] = []
        for t, what in self.moments:
            if isinstance(what, Entry) or not since <= t <= until or what.device not in devices:
                continue
            sample = None
            if what.sample is not None:
                sample = telemetry_pb2.Sample.FromString(what.sample)
            device, received_at = devices[what.device], self.began_at + t
            found.append(Observed(device, sample, what.why, what.link, received_at))
        return found


def _as_named_now(lines: list[str]) -> list[str]:
    """The lines with the digests that plans and device classes have today: a schema that grows changes them."""
    names: dict[str, str] = {}
    plans: list[Any] = []
    classes: dict[str, str] = {}
    for line in lines:
        plain = json.loads(line)
        match plain.get("event", {}):
            case {"event": "profile-measured", "device": device, "profile": profile}:
                classes[device] = profile["device_class"]
            case {"event": "device-described"}:
                described: Any = _what(plain).event
                if described.device in classes:
                    now = described.description.fingerprint.device_class
                    names[classes[described.device]] = now
            case {"event": "plan-made"}:
                plans.append(_what(plain).event)
            case {"event": "rollout-started", "plan": digest} if plans:
                names[digest] = plans.pop().plan.digest
            case _:
                pass
    return [_renamed(line, names) for line in lines]


def _renamed(text: str, names: dict[str, str]) -> str:
    for before, now in names.items():
        text = text.replace(before, now)
    return text


def _what(plain: dict[str, Any]) -> Any:
    """An entry of the journal, or what was heard of a device."""
    if "event" in plain:
        return Entry(plain["number"], _EVENT.decode(json.dumps(plain["event"]).encode()))
    sample, link = plain.get("sample"), plain.get("link")
    return Heard(
        plain["device"],
        base64.b64decode(sample) if sample else None,
        plain.get("why", ""),
        LinkQuality(**link) if link else None,
    )


def _plain(what: Entry | Heard) -> dict[str, Any]:
    if isinstance(what, Entry):
        return {"number": what.number, "event": msgspec.to_builtins(what.event, enc_hook=float)}
    plain: dict[str, Any] = {"device": what.device}
    if what.sample is not None:
        plain["sample"] = base64.b64encode(what.sample).decode()
    if what.link is not None:
        plain["link"] = dataclasses.asdict(what.link)
    return plain | ({"why": what.why} if what.why else {})


class Player:
    """A session that shows a recording as it was at a time, and goes on when it is told to.

    What the app asks for is noted in `asked`; `answer` is called with it and may post messages.
    """

    def __init__(self, recording: Recording, until: float) -> None:
        self.recording = recording
        self.until = until
        self.asked: list[tuple[str, tuple[Any, ...]]] = []
        self.refuse: TiermeshError | None = None
        self.refusal = ""
        self._post: Any = None

    def now(self) -> float:
        return self.recording.began_at + self.until

    async def run(self, post: Any) -> None:
        self._post = post
        post(m.MeshOpened("demo", ["edge", "hub", "datacenter", "cloud"], self.refusal))
        self._tell(0.0)
        await asyncio.Event().wait()

    def go_to(self, until: float) -> None:
        """Play on."""
        since, self.until = self.until, until
        self._tell(since)

    def _tell(self, since: float) -> None:
        known = {e.number for e in self.recording.entries(since)} if since else set[int]()
        fresh = [e for e in self.recording.entries(self.until) if e.number not in known]
        self._post(m.Journalled(fresh))
        self._post(m.FleetChanged(self.recording.fleet(self.until)))
        self._post(m.SamplesArrived(self.recording.observed(self.until, since)))

    def post(self, message: Any) -> None:
        """Tell the app something."""
        self._post(message)

    def __getattr__(self, name: str) -> Any:
        async def asked(*args: Any, **more: Any) -> None:
            self.asked.append((name, (*args, *more.values())))
            if self.refuse is not None:
                self._post(m.WorkStarted(name))
                self._post(m.WorkEnded(name, error=self.refuse))

        return asked
