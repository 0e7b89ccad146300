"""The sending end of a stream, as a state machine: numbers, windows, resending, and when a peer counts as lost.

A frame waits in the queue of its channel, is numbered when it is sent, and is kept until it is acknowledged. After a
reconnect, sending goes on from the number that the receiver wants. If the receiver is another than before (its epoch
moved), all that the former one had acknowledged and not finished is gone: `connected` says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from agent.serving.streams.window import FULL, UNBOUNDED, Window, channel
from tiermesh import limits
from tiermesh.errors import TiermeshError
from tiermesh.frames import Frame

SILENCE_S: Final = 1.0
"""A peer that has said nothing for so long is lost. Receivers repeat their acknowledgement four times as often."""
ROOM_FRAMES: Final = limits.STREAM_CREDIT_FRAMES
ROOM_ENDS: Final = 4 * limits.SOURCE_INFLIGHT_REQUESTS
ROOM_BYTES: Final = limits.STREAM_CREDIT_BYTES // 4


class Link(Enum):
    """What the sender knows of its peer."""

    CONNECTING = "connecting"
    UP = "up"
    LOST = "lost"


@dataclass(slots=True)
class _Channel:
    """Frames to one stage: `waiting` to be numbered; counts of what is sent and not acknowledged."""

    waiting: deque[Frame] = field(default_factory=deque[Frame])
    waiting_bytes: int = 0
    window: Window = FULL
    frames: int = 0
    bytes: int = 0

    def may_send(self, frame: Frame) -> bool:
        return self.frames < self.window.frames and self.bytes + frame.size <= self.window.bytes


class Sender:
    """One stream's sending end. Times are seconds of any one clock."""

    def __init__(self, now: float) -> None:
        self.link = Link.CONNECTING
        self.receiver_epoch = 0
        self.sent_frames = self.resent_frames = 0
        self._heard = now
        self._next = 1
        self._kept: deque[Frame] = deque()
        self._resend = 0
        self._channels: dict[str, _Channel] = {}
        self._full = FULL
        self._windows: Mapping[str, Window] = {}

    @property
    def oldest(self) -> int:
        """The number of the first frame that is kept, or of the next one."""
        return self._next - len(self._kept)

    @property
    def unacknowledged(self) -> int:
        """Frames sent and kept."""
        return len(self._kept)

    @property
    def waiting(self) -> int:
        """Frames not yet sent."""
        return sum(len(c.waiting) for c in self._channels.values())

    def offer(self, frame: Frame) -> None:
        """Queue a frame. Who offers work asks `has_room` first."""
        queue = self._channel(channel(frame))
        queue.waiting.append(frame)
        queue.waiting_bytes += frame.size

    def has_room(self, stage: str) -> bool:
        """Whether more frames for a stage should be made: false is backpressure."""
        queue = self._channels.get(stage)
        most = ROOM_FRAMES if stage != UNBOUNDED else ROOM_ENDS
        return queue is None or (len(queue.waiting) < most and queue.waiting_bytes < ROOM_BYTES)

    def connected(self, receiver_epoch: int, now: float) -> bool:
        """The receiver has answered; its first acknowledgement follows. True: it is another one than before."""
        former, self.receiver_epoch = self.receiver_epoch, receiver_epoch
        if former != receiver_epoch:
            self._unsend()
        self._resend = 0
        self.link = Link.UP
        self._heard = now
        return former not in (0, receiver_epoch)

    def _unsend(self) -> None:
        """Put all that is kept back into the queues; a new receiver has promised no windows for it."""
        for frame in reversed(self._kept):
            queue = self._channel(channel(frame))
            queue.waiting.appendleft(frame)
            queue.waiting_bytes += frame.size
        self._next = self.oldest
        self._kept.clear()
        for queue in self._channels.values():
            queue.frames = queue.bytes = 0

    def acknowledged(
        self, upto: int, full: Window, windows: Mapping[str, Window], now: float
    ) -> None:
        """Every frame below `upto` is in the receiver's care; `windows` are those that differ from `full`.

        Raises:
            TiermeshError: the receiver acknowledges what was not sent, or wants what is no longer kept.
        """
        if not self.oldest <= upto <= self._next:
            raise TiermeshError(
                f"a receiver acknowledges up to frame {upto}",
                why=f"frames {self.oldest} to {self._next - 1} are kept",
            )
        for _ in range(upto - self.oldest):
            frame = self._kept.popleft()
            queue = self._channels[channel(frame)]
            queue.frames -= 1
            queue.bytes -= frame.size
            self._resend = max(self._resend - 1, 0)
        self._full, self._windows = full, windows
        for name, queue in self._channels.items():
            queue.window = windows.get(name, full)
        self._heard = now

    def next_message(self) -> tuple[int, list[Frame]] | None:
        """The frames to send now and the number of the first, or None: nothing waits, or windows are closed."""
        if self.link is not Link.UP:
            return None
        first = self.oldest + self._resend
        frames = list(self._to_resend())
        if not frames:
            frames = list(self._to_send())
        self._resend += len(frames)
        return (first, frames) if frames else None

    def _to_resend(self) -> Iterator[Frame]:
        size = 0
        for index in range(self._resend, len(self._kept)):
            frame = self._kept[index]
            if (
                index - self._resend >= limits.FRAMES_PER_MESSAGE
                or size >= limits.MESSAGE_TARGET_BYTES
            ):
                return
            size += frame.size
            self.resent_frames += 1
            yield frame

    def _to_send(self) -> Iterator[Frame]:
        count = size = 0
        for name in sorted(self._channels, key=UNBOUNDED.__ne__):
            queue = self._channels[name]
            while queue.waiting and (name == UNBOUNDED or queue.may_send(queue.waiting[0])):
                if count >= limits.FRAMES_PER_MESSAGE or size >= limits.MESSAGE_TARGET_BYTES:
                    return
                frame = self._number(queue)
                count += 1
                size += frame.size
                yield frame

    def _number(self, queue: _Channel) -> Frame:
        frame = queue.waiting.popleft()
        queue.waiting_bytes -= frame.size
        queue.frames += 1
        queue.bytes += frame.size
        self._kept.append(frame)
        self._next += 1
        self.sent_frames += 1
        return frame

    def disconnected(self) -> None:
        """The call has ended; whether the peer is lost, time tells."""
        if self.link is Link.UP:
            self.link = Link.CONNECTING

    def is_silent(self, now: float) -> bool:
        """Whether the receiver has been silent for too long."""
        return now - self._heard > SILENCE_S

    def excuse(self, seconds: float) -> None:
        """Do not count the last `seconds` as silence."""
        self._heard += seconds

    def check_lost(self, now: float) -> bool:
        """Call on a timer; True once, when the peer turns out to be lost."""
        if self.link is Link.LOST or not self.is_silent(now):
            return False
        self.link = Link.LOST
        return True

    def withdraw(self) -> list[Frame]:
        """Take out all that is not acknowledged, to send it elsewhere; the numbers are not used again."""
        frames = list(self._kept)
        frames += [f for queue in self._channels.values() for f in queue.waiting]
        self._kept.clear()
        self._channels.clear()
        self._resend = 0
        return frames

    def expired(self, now: float) -> list[Frame]:
        """Take out the frames to stages that wait and whose deadline has passed."""
        found: list[Frame] = []
        for name, queue in self._channels.items():
            while name != UNBOUNDED and queue.waiting and queue.waiting[0].deadline < now:
                frame = queue.waiting.popleft()
                queue.waiting_bytes -= frame.size
                found.append(frame)
        return found

    def _channel(self, name: str) -> _Channel:
        found = self._channels.get(name)
        if found is None:
            found = self._channels[name] = _Channel(window=self._windows.get(name, self._full))
        return found
