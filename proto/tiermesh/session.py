"""One end of a control session, as a state machine: numbers, acknowledgements, resuming, and starting over.

Agent and coordinator run the same machine. Each end numbers what it sends, keeps it until the other end says that it
is handled, and takes each number once. A connection that breaks costs nothing: on the next one, sending goes on from
the number that the other end wants. When either process is started again, its half of the session is gone: the ends
meet with another epoch, numbers begin at 1, and `open` hands back what was in doubt, so that it can be asked again.

`Tenure` is whom an agent obeys. It hands out the epochs, outlives the agent's process, and is what fences off a
coordinator that another has taken over from.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

from tiermesh import limits
from tiermesh.errors import LimitExceeded, TakenOver, TiermeshError

T = TypeVar("T")

BEAT_S: Final = 1.0
"""An agent says something at least this often."""
SILENCE_S: Final = 2.5
"""An agent that has said nothing for so long is silent. gRPC's keepalive finds out earlier, where it can."""


@dataclass(frozen=True, slots=True)
class Tenure:
    """The coordinator that an agent obeys, and the epoch of its newest session."""

    epoch: int = 0
    holder: str = ""

    def claim(self, coordinator: str, epoch: int, live: int) -> Tenure:
        """Who holds it once `coordinator` has asked to go on with `epoch`; equal to this when it may.

        `live` is the epoch whose session is in memory, 0 after a start of the agent. A coordinator that has
        had no session here (`epoch` 0) takes over, whoever holds it.

        Raises:
            TakenOver: it had a session, and another coordinator has taken over since.
        """
        if coordinator == self.holder and epoch and epoch == self.epoch == live:
            return self
        if coordinator != self.holder and epoch:
            raise TakenOver(
                "another coordinator has taken over this device",
                why=f"its session is {self.epoch}, and session {epoch} is over",
                fix="Use one coordinator, or start this one again to take over",
            )
        return Tenure(self.epoch + 1, coordinator)


class ConnectionOpened(NamedTuple, Generic[T]):
    """A connection has begun. `link` names it; `in_doubt` is what was sent in a session that is gone."""

    link: int
    is_reset: bool
    in_doubt: list[T]


class ControlSession(Generic[T]):
    """One end. `T` is what this end sends; the payload of what it takes never passes through here.

    Times are seconds of any one clock.
    """

    def __init__(self, now: float) -> None:
        self.epoch = 0
        self.wanted = 1
        """The number of the first message of the other end that is not handled yet."""
        self._due = 1
        self._kept: deque[tuple[T, int]] = deque()
        self._kept_bytes = 0
        self._next = 1
        self._sent = 0
        self._never_sent = 1
        self._link = 0
        self._is_up = False
        self._heard = now
        self._second = now
        self._unnumbered = 0

    @property
    def is_up(self) -> bool:
        """Whether there is a connection."""
        return self._is_up

    @property
    def kept(self) -> int:
        """How many messages wait for an acknowledgement."""
        return len(self._kept)

    @property
    def oldest(self) -> int:
        """The number of the first message that is kept, or of the next one."""
        return self._next - len(self._kept)

    def has_room(self, size: int = 0) -> bool:
        """Whether a message of `size` bytes may be offered."""
        fits = self._kept_bytes + size <= limits.CONTROL_BYTES_KEPT
        return fits and len(self._kept) < limits.CONTROL_MESSAGES_KEPT

    def offer(self, message: T, size: int) -> int:
        """Number a message and keep it until it is acknowledged; returns its number.

        Raises:
            LimitExceeded: too much waits for the other end.
        """
        if not self.has_room(size):
            raise LimitExceeded(
                "the control session is full",
                why=f"{len(self._kept)} messages, {self._kept_bytes} bytes, are queued",
                fix="Wait until the peer catches up",
            )
        self._kept.append((message, size))
        self._kept_bytes += size
        self._next += 1
        return self._next - 1

    def open(self, epoch: int, other_wants: int, now: float) -> ConnectionOpened[T]:
        """The ends have met: they go on with `epoch`, and the other end wants this number next.

        Raises:
            TiermeshError: it wants what was never sent, or what it has acknowledged before.
        """
        in_doubt: list[T] = []
        is_reset = epoch != self.epoch
        if is_reset:
            in_doubt = self.forget()
            self.epoch = epoch
        self._forget_below(other_wants)
        self._link += 1
        self._sent = 0
        self._is_up = True
        self._heard = self._second = now
        self._unnumbered = 0
        return ConnectionOpened(self._link, is_reset, in_doubt)

    def close(self, link: int) -> None:
        """A connection has ended; when a newer one has begun, nothing changes."""
        if link == self._link:
            self._is_up = False

    def forget(self) -> list[T]:
        """Leave the session: the next one is another. Returns what was not acknowledged."""
        in_doubt = [message for message, _ in self._kept]
        self._kept.clear()
        self.epoch = self._kept_bytes = self._sent = 0
        self._next = self._never_sent = self._due = self.wanted = 1
        return in_doubt

    def is_current(self, link: int) -> bool:
        """Whether a connection is the one in use."""
        return self._is_up and link == self._link

    def next_message(self) -> tuple[int, T] | None:
        """What to send now, with its number, or None."""
        if not self._is_up or self._sent >= len(self._kept):
            return None
        number, message = self.oldest + self._sent, self._kept[self._sent][0]
        self._sent += 1
        self._never_sent = max(self._never_sent, number + 1)
        return number, message

    def acknowledged(self, link: int, upto: int) -> list[T]:
        """The other end has handled every message below `upto`; returns those that are new of them.

        Raises:
            TakenOver: by a newer connection. TiermeshError: so many were never sent.
        """
        self._check_current(link)
        return self._forget_below(upto)

    def _forget_below(self, upto: int) -> list[T]:
        if not self.oldest <= upto <= self._never_sent:
            raise TiermeshError(
                f"the other end of a control session wants message {upto}",
                why=f"it has been sent messages {self.oldest} to {self._never_sent - 1}",
            )
        gone: list[T] = []
        for _ in range(upto - self.oldest):
            message, size = self._kept.popleft()
            self._kept_bytes -= size
            self._sent = max(self._sent - 1, 0)
            gone.append(message)
        return gone

    def is_new(self, link: int, number: int) -> bool:
        """Whether a numbered message is to be handled; False: it has come before.

        Raises:
            TakenOver: by a newer connection.
            TiermeshError: messages before it are missing. LimitExceeded: too many are not handled yet.
        """
        self._check_current(link)
        if number < self._due:
            return False
        if number > self._due:
            raise TiermeshError(
                f"message {number} of a control session came", why=f"message {self._due} is due"
            )
        if self._due - self.wanted >= limits.CONTROL_MESSAGES_KEPT:
            raise LimitExceeded(
                "too many messages in a control session",
                why=f"{limits.CONTROL_MESSAGES_KEPT} are queued already",
            )
        self._due += 1
        return True

    def handled(self, epoch: int) -> None:
        """The next message in order has been handled, in the session in which it came."""
        if epoch == self.epoch:
            self.wanted += 1

    def _check_current(self, link: int) -> None:
        if not self.is_current(link):
            raise TakenOver("connection closed", why="a newer connection replaced it")

    # Liveness

    def heard(self, now: float, *, numbered: bool) -> None:
        """Something has come.

        Raises:
            LimitExceeded: the other end sends unnumbered messages too fast.
        """
        self._heard = now
        if now - self._second >= 1:
            self._second, self._unnumbered = now, 0
        self._unnumbered += not numbered
        if self._unnumbered > limits.CONTROL_UNNUMBERED_PER_S:
            raise LimitExceeded(
                "the peer of a control session exceeds the message rate",
                why=f"more than {limits.CONTROL_UNNUMBERED_PER_S} messages within a second",
            )

    def is_silent(self, now: float) -> bool:
        """Whether nothing has come for too long."""
        return now - self._heard > SILENCE_S

    def excuse(self, seconds: float) -> None:
        """Do not count the last `seconds` as silence: it was this end that did not listen."""
        self._heard += seconds
