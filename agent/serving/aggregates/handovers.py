"""How an aggregate's state goes to the device that the aggregate has moved to. Pure.

The device where the aggregate is now asks the one where it was. That one stops folding, gives what waits there back to
the sources, and sends its state as of that moment. The new device keeps the copy on disk and says so; the former one
notes on disk that the state is not its own any more, and says that; from then on the new device folds. So one device
at a time owns the state: until the former one has let go, a rollout that ends half-way finds it where it was, and
after that a former device that comes back, killed or not, knows that it has none.

A former device that does not answer is waited for; one that the coordinator has given up is not. Then the state begins
anew, with what no sink has confirmed, or goes on from the copy where there is one. Which of them is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Final, Literal, TypeAlias, TypeVar

import msgspec

from agent.serving.aggregates.snapshot import Given, HeldAggregate
from agent.serving.instructions import Adopt, Dump, Give, Notice, Own
from agent.serving.routing.forwarding import Generations, Post
from agent.serving.routing.generation import Generation
from tiermesh import limits
from tiermesh.errors import TiermeshError
from tiermesh.frames import Frame, Kind, pack

T = TypeVar("T", bound=msgspec.Struct)

_Has: TypeAlias = Literal["state", "memory", "nothing", "gone", "later", "newer"]

ASK_AGAIN_S: Final = 0.25
PATIENCE_S: Final = 10.0
"""How long a former device may be silent: its worker, or its agent, is started again within that."""


class _CopyRequest(msgspec.Struct, frozen=True):
    """What TAKE says: which part of which copy is wanted, or that the copy is on disk."""

    token: str = ""
    part: int = 0
    kept: bool = False
    address: str = ""


class _Told(msgspec.Struct, frozen=True):
    """What STATE says. `later`: ask again; `newer`: a newer generation is current there."""

    has: _Has
    token: str = ""
    part: int = 0
    parts: int = 0
    data: bytes = b""
    device: str = ""
    address: str = ""
    passed: dict[str, list[int]] = {}
    """By series, the numbers that ended above and whose turn has not come: nobody tells of them again."""


@dataclass(frozen=True, slots=True)
class StageResumed:
    """A stage goes on: the numbers that come next, by series, and those that are passed over."""

    stage: str
    positions: Mapping[str, int]
    passed: Mapping[str, list[int]]


@dataclass(slots=True)
class _Giving:
    """A state that is asked for. While it is being read, what to answer is to ask again."""

    device: str
    address: str
    generation: int
    has: _Has = "later"
    token: str = ""
    data: bytes = b""
    positions: Mapping[str, int] = field(default_factory=dict[str, int])
    passed: dict[str, list[int]] = field(default_factory=dict[str, list[int]])


@dataclass(slots=True)
class _Taking:
    """A state that is wanted, for a generation."""

    generation: int
    former: str
    asked_at: float = -inf
    heard_at: float = -inf
    begun: bool = False
    token: str = ""
    parts: dict[int, bytes] = field(default_factory=dict[int, bytes])
    count: int = 0
    passed: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    keeping: bool = False
    """The copy is being written."""
    kept: bool = False
    """It is on disk, and the former device has yet to let go of its own."""


class Handovers:
    """The states of a workflow's aggregates on one device, by stage."""

    def __init__(self, workflow: str, post: Post, generations: Generations, epoch: int) -> None:
        self._workflow = workflow
        self._post = post
        self._generations = generations
        self._epoch = epoch
        self._held: dict[str, HeldAggregate] = {}
        self._taking: dict[str, _Taking] = {}
        self._giving: dict[str, _Giving] = {}
        self._copies = 0
        self._opened: list[StageResumed] = []
        self._closed: list[str] = []
        self.failures: dict[str, str] = {}
        """Stages whose state could not be taken over, and why, since the last commit."""

    # What the flow asks

    def is_here(self, stage: str) -> bool:
        """Whether requests may be folded here; what comes to a state that is on its way waits."""
        return stage not in self._taking and stage not in self._giving

    def gives(self, stage: str) -> bool:
        """Whether the state is asked for, or has been given: what comes goes back to the sources."""
        held = self._held.get(stage)
        given = held is not None and held.given is not None
        return stage not in self._taking and (stage in self._giving or given)

    def knows(self, stage: str) -> bool:
        """Whether an aggregate has been resumed here."""
        return stage in self._held

    def has_told(self, stage: str) -> bool:
        """Whether it has been said what became of the state when the aggregate came here."""
        return stage in self._held and self._held[stage].since > 0

    @property
    def are_settled(self) -> bool:
        """Whether no state is on its way here for the generation that is current."""
        return not any(taking.begun for taking in self._taking.values())

    def closing(self, stage: str, passed: dict[str, list[int]]) -> None:
        """No request is folded here any more; numbers are `passed` over by who goes on."""
        if stage in self._giving:
            self._giving[stage].passed = passed

    def take_changes(self) -> tuple[list[str], list[StageResumed]]:
        """Stages at which no request may be folded any more, and those that go on."""
        closed, self._closed = self._closed, []
        opened, self._opened = self._opened, []
        return closed, opened

    # Generations

    def resume(self, stage: str, held: HeldAggregate, generation: Generation) -> None:
        """An aggregate of a generation is loaded, with what the device holds of its state."""
        is_new = stage not in self._held
        known = self._held.setdefault(stage, held)
        former = self._former(stage, known, generation)
        under_way = self._taking.get(stage)
        if former:
            is_copy = bool(known.pending) and known.since == generation.number
            token = known.pending if is_copy else ""
            self._taking[stage] = _Taking(generation.number, former, token=token, kept=is_copy)
            if not is_new:
                self._closed.append(stage)
        elif under_way is not None and not under_way.begun:
            del self._taking[stage]

    def _former(self, stage: str, held: HeldAggregate, generation: Generation) -> str:
        """The device that the state is to be taken from; empty where it is here already."""
        former = generation.assignment.formers.get(stage, self._post.device)
        given = held.given
        if given is not None and generation.number <= given.generation:
            # It left under a newer generation than this one, which goes on only until that one is here.
            return ""
        if given is None and not held.pending and held.since == generation.number:
            return ""
        if former == self._post.device:
            return given.device if given is not None else ""
        return former

    def commit(self, generation: Generation, now: float) -> None:
        """A generation is current: take over the states of its aggregates that are elsewhere."""
        self.failures.clear()
        for stage, taking in list(self._taking.items()):
            if taking.generation == generation.number:
                taking.begun = True
                taking.heard_at = now
            elif generation.queue_of(stage) is None:
                del self._taking[stage]
        for stage in list(self._giving):
            if generation.queue_of(stage) is not None and stage not in self._taking:
                # It has come back before it was given.
                self._reopen(stage)
        self.tick(now)

    def abort(self, generation: int) -> None:
        """A prepared generation is forgotten."""
        running = self._generations.running
        for stage in [s for s, t in self._taking.items() if t.generation == generation]:
            del self._taking[stage]
            if running is None or running.queue_of(stage) is None:
                del self._held[stage]
            elif self._held[stage].given is None:
                self._opened.append(StageResumed(stage, self._held[stage].positions, {}))

    def _reopen(self, stage: str) -> None:
        giving = self._giving[stage]
        if giving.has != "later":
            del self._giving[stage]
            self._opened.append(StageResumed(stage, giving.positions, giving.passed))

    # Giving

    def answer(self, frame: Frame, now: float) -> None:
        """A device asks for the state of an aggregate that was here, or says that it has it."""
        asked = _read(frame, _CopyRequest)
        if asked is None:
            return
        self._post.learn(frame.origin, asked.address)
        told = self._told(frame, asked)
        self._tell(frame.origin, frame.stage, frame.generation, told, now)

    def _told(self, frame: Frame, asked: _CopyRequest) -> _Told:
        stage, held = frame.stage, self._held.get(frame.stage)
        if held is not None and held.given is not None and stage not in self._taking:
            return _gone(held.given)
        if frame.generation < self._generations.current:
            return _Told("newer")
        if stage in self._taking and self._taking[stage].begun:
            return _Told("later")
        giving = self._giving.get(stage)
        if giving is None or (giving.device, giving.generation) != (frame.origin, frame.generation):
            self._begin(stage, _Giving(frame.origin, asked.address, frame.generation))
            return _Told("later")
        return self._given_so_far(stage, giving, asked)

    def _given_so_far(self, stage: str, giving: _Giving, asked: _CopyRequest) -> _Told:
        if giving.has != "state":
            return _Told(giving.has)
        if asked.token != giving.token:
            return _part(giving, 0)
        if not asked.kept:
            return _part(giving, asked.part)
        given = Given(giving.token, giving.device, giving.address, giving.generation)
        self._post.do(Give(stage, given))
        return _Told("later")

    def _begin(self, stage: str, giving: _Giving) -> None:
        self._giving[stage] = giving
        self._closed.append(stage)
        self._post.do(Dump(stage))

    def dumped(self, stage: str, held: HeldAggregate | None, data: bytes, now: float) -> None:
        """What the device holds of an aggregate, and its state; None: it holds nothing."""
        giving = self._giving.get(stage)
        if giving is None or giving.has != "later":
            return
        if held is not None and held.given is not None:
            del self._giving[stage]
            self._held[stage] = held
            return
        self._copies += 1
        giving.token = f"{self._post.device}.{self._epoch}.{self._copies}"
        giving.has = _what(held, data)
        giving.data = data
        giving.positions = held.positions if held is not None else {}
        if self._is_back(stage):
            self._reopen(stage)
        else:
            told = _part(giving, 0) if giving.has == "state" else _Told(giving.has)
            self._tell(giving.device, stage, giving.generation, told, now)

    def _is_back(self, stage: str) -> bool:
        running = self._generations.running
        is_newer = running is not None and running.number > self._giving[stage].generation
        return is_newer and running is not None and running.queue_of(stage) is not None

    def given(self, stage: str, given: Given, now: float) -> None:
        """It is on disk that a state is not here any more."""
        giving = self._giving.pop(stage, None)
        self._held[stage] = HeldAggregate(given=given)
        if giving is not None:
            self._tell(giving.device, stage, giving.generation, _gone(given), now)

    def _tell(self, device: str, stage: str, generation: int, told: _Told, now: float) -> None:
        self._post.send_to(device, self._frame(Kind.STATE, stage, generation, told), now)

    # Taking

    def tick(self, now: float) -> None:
        """Ask again for what has not come, and go on without who does not answer."""
        for stage, taking in list(self._taking.items()):
            if not taking.begun or taking.keeping:
                continue
            if taking.former in self._lost():
                self._go_on_without(stage, taking, "is lost")
            elif now - taking.heard_at > PATIENCE_S:
                self._go_on_without(stage, taking, "does not answer")
            elif now - taking.asked_at >= ASK_AGAIN_S:
                self._ask(stage, taking, now)

    def _lost(self) -> set[str]:
        running = self._generations.running
        return set(running.assignment.lost) if running is not None else set()

    def _ask(self, stage: str, taking: _Taking, now: float) -> None:
        taking.asked_at = now
        running = self._generations.running
        mine = running.assignment.peers.get(self._post.device) if running is not None else None
        asked = _CopyRequest(
            taking.token, len(taking.parts), taking.kept, mine.address if mine is not None else ""
        )
        frame = self._frame(Kind.TAKE, stage, taking.generation, asked)
        self._post.send_to(taking.former, frame, now)

    def hear(self, frame: Frame, now: float) -> None:
        """The former device answers."""
        told, taking = _read(frame, _Told), self._taking.get(frame.stage)
        if (
            told is None
            or taking is None
            or not taking.begun
            or taking.keeping
            or (frame.origin, frame.generation) != (taking.former, taking.generation)
        ):
            return
        taking.heard_at = now
        match told.has:
            case "state":
                self._gather(frame.stage, taking, told, now)
            case "gone":
                self._follow(frame.stage, taking, told, now)
            case "memory":
                self._go_on_without(frame.stage, taking, "had it in memory, or has too much of it")
            case "nothing":
                self._go_on_without(frame.stage, taking, "has none")
            case "newer":
                self._fail(frame.stage, "a newer generation is current where it was")
            case "later":
                pass

    def _gather(self, stage: str, taking: _Taking, told: _Told, now: float) -> None:
        if told.token != taking.token:
            taking.token, taking.kept = told.token, False
            taking.parts, taking.count, taking.passed = {}, told.parts, told.passed
        most = ceil(limits.AGGREGATE_STATE_BYTES / limits.AGGREGATE_PART_BYTES)
        if told.part != len(taking.parts) or not 0 < told.parts <= most or taking.kept:
            return
        taking.parts[told.part] = told.data
        if len(taking.parts) < told.parts:
            self._ask(stage, taking, now)
            return
        taking.keeping = True
        data = b"".join(taking.parts[i] for i in sorted(taking.parts))
        self._post.do(Adopt(stage, data, taking.generation, taking.token))

    def _follow(self, stage: str, taking: _Taking, told: _Told, now: float) -> None:
        """The state is not there any more: it is here, or the device that has it is asked."""
        if told.device == self._post.device:
            if taking.kept and told.token == taking.token:
                name = self._generations.name(taking.former)
                self._own(stage, f"its state has come over from {name}")
            else:
                self._go_on_without(stage, taking, "gave it to this device, which has lost it")
            return
        taking.former = told.device
        self._post.learn(told.device, told.address)
        self._ask(stage, taking, now)

    def adopted(self, stage: str, held: HeldAggregate, why: str, now: float) -> None:
        """A copy, or a new state, is on disk; or `why` it is not."""
        taking = self._taking.get(stage)
        if taking is None:
            return
        taking.keeping = False
        if why:
            self._fail(stage, why)
            return
        self._held[stage] = held
        if held.pending:
            taking.kept = True
            taking.heard_at = now
            self._ask(stage, taking, now)
        else:
            self._open(stage)

    def _go_on_without(self, stage: str, taking: _Taking, why: str) -> None:
        name = self._generations.name(taking.former)
        if taking.kept:
            self._own(stage, f"its state was restored from a copy: {name}, where it was, {why}")
            return
        taking.keeping = True
        text = f"its state was reset; requests that no sink confirmed are replayed: {name}, where it was, {why}"
        self._say("aggregate-began-anew", stage, text)
        self._post.do(Adopt(stage, b"", taking.generation, ""))

    def _own(self, stage: str, text: str) -> None:
        held = self._held[stage]
        self._held[stage] = HeldAggregate(held.since, "", None, held.kept, held.positions)
        self._post.do(Own(stage))
        self._say("aggregate-moved", stage, text)
        self._open(stage)

    def _open(self, stage: str) -> None:
        taking = self._taking.pop(stage)
        self._opened.append(StageResumed(stage, self._held[stage].positions, taking.passed))

    def _fail(self, stage: str, why: str) -> None:
        """The state stays where it is; this generation cannot be served here."""
        self._taking[stage].begun = False
        self.failures[stage] = why

    def _say(self, kind: str, stage: str, text: str) -> None:
        self._post.do(Notice(kind, f"{self._workflow}, {stage}: {text}"))

    def _frame(self, kind: Kind, stage: str, generation: int, what: msgspec.Struct) -> Frame:
        payload = pack(msgspec.structs.asdict(what))
        return Frame(kind, generation, 0, "", 0, self._post.device, stage, payload=payload)


def _gone(given: Given) -> _Told:
    return _Told("gone", given.token, device=given.device, address=given.address)


def _what(held: HeldAggregate | None, data: bytes) -> _Has:
    if held is None:
        return "nothing"
    return "state" if held.kept and len(data) <= limits.AGGREGATE_STATE_BYTES else "memory"


def _part(giving: _Giving, part: int) -> _Told:
    data, size = giving.data, limits.AGGREGATE_PART_BYTES
    parts = max(ceil(len(data) / size), 1)
    passed = giving.passed if part == 0 else {}
    piece = data[part * size : (part + 1) * size]
    return _Told("state", giving.token, part, parts, piece, passed=passed)


def _read(frame: Frame, kind: type[T]) -> T | None:
    try:
        return msgspec.convert(frame.payload.unpack(), kind)
    except (TiermeshError, msgspec.ValidationError):
        return None
