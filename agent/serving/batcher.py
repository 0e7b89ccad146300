"""Which batch a replica runs next, and when.

The policy of one server: start when it is free and (B items wait, or the oldest has waited T); take up to B. Items
are what a model sees of a request, and only items of equal shapes share a run of the model: where the B that wait have
several shapes, they are due all the same, in several runs. How many items a request is made of is known once it is
prepared, so requests are prepared while fewer than B items wait.

Requests are prepared in the order of their urgency: when they should be done by the latency SLO. So what has been
delayed on its way does not queue behind what has just been accepted, and B and T are as they were.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from math import inf
from operator import attrgetter
from typing import Any, Final

from tiermesh import limits
from tiermesh.batching.tuning import Tuned
from tiermesh.frames import Frame, Packed

ROOM_FRAMES: Final = limits.STREAM_CREDIT_FRAMES
ROOM_BYTES: Final = limits.STREAM_CREDIT_BYTES
AT_ONCE: Final = 16
AT_ONCE_S: Final = 0.005
"""Requests that one job prepares, or runs through stage code, and how long that may take: others on the device wait."""


@dataclass(slots=True, eq=False)
class Work:
    """A request at a replica. `parts` are a join's payloads by input; `release` opens the sender's window again."""

    frame: Frame
    arrived: float
    """When it came to this replica."""
    release: Callable[[], None] | None = None
    parts: dict[str, Packed] | None = None
    urgency: float = 0.0
    """When it should be done: what is least is next."""
    state: Any = None
    """What the compute lane keeps of the request between its jobs."""
    outputs: dict[int, Any] = field(default_factory=dict[int, Any])
    items: int = 0
    prepare_s: float = 0.0
    """Device time of preparing it, until a batch with one of its items counts it in."""
    spent_s: float = 0.0
    """How long the jobs took in which it was."""
    batch_size: int = 0
    """The largest batch that one of its items was in."""
    alone: bool = False
    """It shares no job with others: it is suspected to end the worker."""

    @property
    def is_complete(self) -> bool:
        """Whether every item has been through the model."""
        return len(self.outputs) == self.items


class JobStep(Enum):
    """What a job does."""

    PREPARE = "prepare"
    """Split requests into items."""
    INFER = "infer"
    """Run a batch of items; finish the requests that are complete with it."""
    APPLY = "apply"
    """Run stage code without a model over whole requests."""


@dataclass(frozen=True, slots=True)
class QueuedItem:
    """The `index`-th item of a request, as the stage code made it."""

    work: Work
    index: int
    value: Any


@dataclass(frozen=True, slots=True)
class Job:
    """What the compute lane does next for a replica, in one go."""

    generation: int
    replica: str
    step: JobStep
    works: tuple[Work, ...] = ()
    items: tuple[QueuedItem, ...] = ()


def place_of(work: Work) -> tuple[str, str]:
    """The stage at which a request is, and its id."""
    return work.frame.stage, work.frame.request_id


def places_of(job: Job) -> list[tuple[str, str]]:
    """The requests that a job works on, and the stage at which they are."""
    return [place_of(w) for w in dict.fromkeys([*job.works, *(item.work for item in job.items)])]


class Batcher:
    """The queue of one replica. `batches` is false for stage code without a model: there is nothing to wait for.

    With `in_order`, requests are taken as they come, and one without room below holds up those behind it.
    `urgency` says when a request should be done; without it, requests are taken as they come, too.
    """

    def __init__(
        self,
        generation: int,
        replica: str,
        size: int,
        timeout_s: float,
        *,
        batches: bool,
        in_order: bool = False,
        urgency: Callable[[Work], float] = attrgetter("arrived"),
    ) -> None:
        self._generation = generation
        self._replica = replica
        self._size = size
        self._timeout = timeout_s
        self._batches = batches
        self._in_order = in_order
        self._urgency = urgency
        self._waiting: deque[Work] = deque()
        self._groups: dict[Hashable, deque[QueuedItem]] = {}
        self._items = 0
        self._bytes = 0
        self._due = 0
        self._here: dict[str, Work] = {}
        self._seconds = AT_ONCE_S
        self.running = 0

    @property
    def has_room(self) -> bool:
        """Whether stages on this device should make more for it; false is backpressure."""
        return len(self._waiting) < ROOM_FRAMES and self._bytes < ROOM_BYTES

    @property
    def waiting(self) -> int:
        """Requests that wait to be prepared."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._waiting and not self._items and not self.running

    @property
    def setting(self) -> Tuned:
        """The batch size and the timeout in use."""
        return Tuned(self._size, self._timeout)

    def use(self, setting: Tuned) -> None:
        """Make batches of another size, or wait for another time, from the next one on."""
        self._size, self._timeout = setting.batch_size, setting.timeout_s
        self._count_due()

    def add(self, work: Work) -> None:
        """A request has come. Of one that is here already it is another attempt: the later one goes on for both.

        Not the one that came later: the branches of a request must meet at the join of one and the same lane.
        """
        present = self._here.setdefault(work.frame.request_id, work)
        if present is work:
            self._line_up(work)
            self._bytes += work.frame.size
            return
        if work.frame.attempt >= present.frame.attempt:
            self._bytes += work.frame.size - present.frame.size if present in self._waiting else 0
            present.frame = work.frame
        if work.release is not None:
            work.release()

    def _line_up(self, work: Work) -> None:
        work.urgency = self._urgency(work)
        if self._in_order or not self._waiting or self._waiting[-1].urgency <= work.urgency:
            self._waiting.append(work)
        else:
            insort(self._waiting, work, key=attrgetter("urgency"))

    def give_up(self) -> list[Work]:
        """Take out the requests that wait, in order: another queue takes them."""
        works = list(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        for work in works:
            self.done(work)
        return works

    def done(self, work: Work) -> None:
        """A request has left this replica."""
        self._here.pop(work.frame.request_id, None)

    def took(self, seconds: float, requests: int) -> None:
        """Preparing, or stage code, took so long for so many requests."""
        self._seconds += (seconds / requests - self._seconds) / 4

    def prepared(self, work: Work, items: Sequence[tuple[Hashable, Any]]) -> None:
        """A request has been split into items, each with the key that those of its batch share."""
        work.items = len(items)
        for index, (shape, value) in enumerate(items):
            key = (id(work), shape) if work.alone else shape
            self._groups.setdefault(key, deque()).append(QueuedItem(work, index, value))
        self._items += len(items)
        self._count_due()

    def drop(self, work: Work) -> None:
        """Forget what waits of a request that has failed."""
        for key in [k for k, group in self._groups.items() if any(i.work is work for i in group)]:
            kept = deque(item for item in self._groups[key] if item.work is not work)
            self._items -= len(self._groups[key]) - len(kept)
            self._groups[key] = kept
            if not kept:
                del self._groups[key]
        self._due = min(self._due, self._items)

    def expired(self, now: float, least_s: float = 0.0) -> list[Work]:
        """Take out the requests that wait and whose deadline passes before what is left to do, at least, is done."""
        end = now + least_s
        late = [work for work in self._waiting if work.frame.deadline < end]
        if late:
            self._waiting = deque(w for w in self._waiting if w.frame.deadline >= end)
            self._bytes -= sum(work.frame.size for work in late)
        return late

    def ready_at(self, now: float, has_room: Callable[[Frame], bool]) -> tuple[float, float]:
        """When the next job may start, and the urgency of its most urgent request; infinities where nothing waits."""
        startable = self._first_startable(has_room) if self._waiting else None
        urgent = self._most_urgent_item()
        if self._full_group() is not None or (startable is not None and self._items < self._size):
            return now, min(urgent, startable.urgency if startable else inf)
        return now if self._due else self._oldest_item() + self._timeout, urgent

    def take(self, now: float, has_room: Callable[[Frame], bool]) -> Job | None:
        """The job to run now, or None: it is not yet time, or what it would make has no place to go."""
        full = self._full_group()
        if full is not None:
            return self._infer(full)
        if self._items < self._size or not self._batches:
            works = tuple(self._take_waiting(has_room))
            if works:
                step = JobStep.PREPARE if self._batches else JobStep.APPLY
                return Job(self._generation, self._replica, step, works=works)
        if self._due or (self._items and self._oldest_item() + self._timeout <= now):
            return self._infer(self._most_urgent_group())
        return None

    def _take_waiting(self, has_room: Callable[[Frame], bool]) -> Iterator[Work]:
        most = max(min(AT_ONCE, int(AT_ONCE_S / max(self._seconds, 1e-9))), 1)
        most = min(most, self._size - self._items) if self._batches else most
        skipped: list[Work] = []
        taken = 0
        while self._waiting and taken < most:
            if taken and self._waiting[0].alone:
                break
            work = self._waiting.popleft()
            if has_room(work.frame):
                most = 0 if work.alone else most
                taken += 1
                self._bytes -= work.frame.size
                yield work
            else:
                skipped.append(work)
                most = 0 if self._in_order else most
        self._waiting.extendleft(reversed(skipped))

    def _count_due(self) -> None:
        """A batch of items waits: it is due, however many runs it takes."""
        if not self._due and self._items >= self._size:
            self._due = self._size

    def _first_startable(self, has_room: Callable[[Frame], bool]) -> Work | None:
        startable = self._waiting if not self._in_order else islice(self._waiting, 1)
        return next((work for work in startable if has_room(work.frame)), None)

    def _full_group(self) -> Hashable | None:
        if self._items < self._size:
            return None
        return next((k for k, group in self._groups.items() if len(group) >= self._size), None)

    def _most_urgent_group(self) -> Hashable:
        return min(self._groups, key=lambda key: self._groups[key][0].work.urgency)

    def _most_urgent_item(self) -> float:
        return min((group[0].work.urgency for group in self._groups.values()), default=inf)

    def _oldest_item(self) -> float:
        return min((group[0].work.arrived for group in self._groups.values()), default=inf)

    def _infer(self, key: Hashable) -> Job:
        group = self._groups[key]
        items = tuple(group.popleft() for _ in range(min(self._size, len(group))))
        if not group:
            del self._groups[key]
        self._items -= len(items)
        self._due = max(self._due - len(items), 0)
        self._count_due()
        return Job(self._generation, self._replica, JobStep.INFER, items=items)
