"""The sending end of a stream, as a state machine: numbers, windows, resending, and when a peer counts as lost.

A frame waits in the queue of its channel, is numbered when it is sent, and is kept until it is acknowledged. After a
reconnect, sending goes on from the number that the receiver wants. If the receiver is another than before (its epoch
moved), all that the former one had acknowledged and not finished is gone: `connected` says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from math import inf
from typing import Final

from msgspec.structs import replace

from agent.serving.streams.window import FULL, UNBOUNDED, FlowWindow, channel
from tiermesh import limits
from tiermesh.errors import TiermeshError
from tiermesh.frames import EMPTY, Frame, Kind

SILENCE_S: Final = 1.0
"""A peer that has said nothing for so long is lost. Receivers repeat their acknowledgement four times as often."""
_MESSAGE_S: Final = 0.005
"""A message holds no more than the link carries in this: all of it arrives at once, and what ends requests waits."""
_PACE_S: Final = 0.01
"""What the link carries is measured over at least this."""
_WHY_CHARS: Final = 500
ROOM_FRAMES: Final = limits.STREAM_CREDIT_FRAMES
ROOM_ENDS: Final = 4 * limits.SOURCE_INFLIGHT_REQUESTS
ROOM_BYTES: Final = limits.STREAM_CREDIT_BYTES // 4


class PeerLink(Enum):
    """What the sender knows of its peer."""

    CONNECTING = "connecting"
    UP = "up"
    LOST = "lost"


@dataclass(slots=True)
class _Channel:
    """Frames to one stage: `waiting` to be numbered; counts of what is sent and not acknowledged."""

    waiting: deque[Frame] = field(default_factory=deque[Frame])
    waiting_bytes: int = 0
    window: FlowWindow = FULL
    frames: int = 0
    bytes: int = 0

    def number(self, frames: int, size: int) -> list[Frame]:
        """Take what the window lets go, at most so many frames and just above so many bytes, in order."""
        frames = min(frames, self.window.frames - self.frames)
        return self.take(frames, size, self.window.bytes - self.bytes)

    def take(self, frames: int, size: int, room: float) -> list[Frame]:
        """Take the first that wait: at most `frames`, while fewer than `size` bytes are taken, never above `room`."""
        waiting, taken, total = self.waiting, list[Frame](), 0
        while waiting and len(taken) < frames and total < size:
            more = total + waiting[0].size
            if more > room:
                break
            total = more
            taken.append(waiting.popleft())
        self.waiting_bytes -= total
        self.frames += len(taken)
        self.bytes += total
        return taken


class Sender:
    """One stream's sending end. Times are seconds of any one clock."""

    def __init__(self, now: float) -> None:
        self.link = PeerLink.CONNECTING
        self.receiver_epoch = 0
        self.sent_frames = self.resent_frames = self.resent_bytes = 0
        self._heard = now
        self._next = 1
        self._kept: deque[Frame] = deque()
        self._resend = 0
        self._refused = False
        self._one_by_one = 0
        self._target = limits.MESSAGE_TARGET_BYTES
        self._carried = 0
        """Bytes that were acknowledged since `_busy_since`; `inf`: nothing is under way."""
        self._busy_since = inf
        self._channels: dict[str, _Channel] = {}
        self._full = FULL
        self._windows: Mapping[str, FlowWindow] = {}

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
        name = frame.stage if frame.kind is Kind.DATA else UNBOUNDED
        queue = self._channels.get(name) or self._channel(name)
        queue.waiting.append(frame)
        queue.waiting_bytes += frame.size

    def has_room(self, stage: str) -> bool:
        """Whether more frames for a stage should be made: false is backpressure."""
        queue = self._channels.get(stage)
        if queue is None:
            return True
        most = ROOM_FRAMES if stage != UNBOUNDED else ROOM_ENDS
        has_room = len(queue.waiting) < most and queue.waiting_bytes < ROOM_BYTES
        self._refused = self._refused or not has_room
        return has_room

    def take_refused(self) -> bool:
        """Whether somebody has asked for room in vain since the last call: there may be some now."""
        refused, self._refused = self._refused, False
        return refused

    def connected(self, receiver_epoch: int, now: float) -> bool:
        """The receiver has answered; its first acknowledgement follows. True: it is another one than before."""
        former, self.receiver_epoch = self.receiver_epoch, receiver_epoch
        if former != receiver_epoch:
            self._unsend()
        self._resend = 0
        self.link = PeerLink.UP
        self._heard = now
        return former not in (0, receiver_epoch)

    def _unsend(self) -> None:
        """Put all that is kept back into the queues; a new receiver has promised no windows for it."""
        self.resent_frames += len(self._kept)
        for frame in reversed(self._kept):
            self.resent_bytes += frame.size
            queue = self._channel(channel(frame))
            queue.waiting.appendleft(frame)
            queue.waiting_bytes += frame.size
        self._next = self.oldest
        self._kept.clear()
        for queue in self._channels.values():
            queue.frames = queue.bytes = 0

    def acknowledged(
        self, upto: int, full: FlowWindow, windows: Mapping[str, FlowWindow], now: float
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
        count = upto - self.oldest
        for _ in range(count):
            self._carried += self._forget(self._kept.popleft())
        self._pace(now)
        self._resend = max(self._resend - count, 0)
        self._full, self._windows = full, windows
        for name, queue in self._channels.items():
            queue.window = windows.get(name, full)
        self._heard = now

    def _pace(self, now: float) -> None:
        """Set the size of messages by what was acknowledged while there was something to acknowledge all the time."""
        seconds = now - self._busy_since
        if seconds >= _PACE_S:
            fit = int(self._carried * _MESSAGE_S / seconds)
            self._target = max(limits.MESSAGE_TARGET_BYTES, min(fit, limits.MESSAGE_MOST_BYTES))
        elif seconds >= 0 and self._kept:
            return
        self._carried, self._busy_since = 0, now if self._kept else inf

    def next_message(self) -> tuple[int, list[Frame]] | None:
        """The frames to send now and the number of the first, or None: nothing waits, or windows are closed."""
        if self.link is not PeerLink.UP:
            return None
        first = self.oldest + self._resend
        frames = self._to_resend() if self._resend < len(self._kept) else self._to_send()
        self._resend += len(frames)
        return (first, frames) if frames else None

    def _to_resend(self) -> list[Frame]:
        frames, size = list[Frame](), 0
        for frame in islice(self._kept, self._resend, self._resend + self._most_frames):
            if size >= self._target:
                break
            size += frame.size
            frames.append(frame)
        self.resent_frames += len(frames)
        self.resent_bytes += size
        return frames

    def _to_send(self) -> list[Frame]:
        frames, size = list[Frame](), 0
        for name in sorted(self._channels, key=UNBOUNDED.__ne__):
            queue = self._channels[name]
            before = queue.bytes
            most, left = self._most_frames - len(frames), self._target - size
            frames += queue.take(most, left, inf) if name == UNBOUNDED else queue.number(most, left)
            size += queue.bytes - before
        self._kept.extend(frames)
        self._next += len(frames)
        self.sent_frames += len(frames)
        return frames

    def refused(self, first: int, why: str) -> Frame | None:
        """The receiver cannot read the message that began with frame `first`.

        Its frames are sent again one by one; one that cannot be read alone is replaced by an error, which ends its
        request at the sinks. Returns the frame that was replaced.
        """
        index = first - self.oldest
        if not 0 <= index < len(self._kept):
            return None
        if first >= self._one_by_one:
            self._one_by_one = first + limits.FRAMES_PER_MESSAGE
            return None
        frame = self._kept[index]
        self._forget(frame)
        self._kept[index] = _instead_of(frame, why)
        queue = self._channel(UNBOUNDED)
        queue.frames += 1
        queue.bytes += self._kept[index].size
        return frame

    def _forget(self, frame: Frame) -> int:
        """The frame is no longer under way; returns its size."""
        queue = self._channels[channel(frame)]
        size = frame.size
        queue.frames -= 1
        queue.bytes -= size
        return size

    @property
    def _most_frames(self) -> int:
        """Frames in the next message."""
        careful = self.oldest + self._resend < self._one_by_one
        return 1 if careful else limits.FRAMES_PER_MESSAGE

    def disconnected(self) -> None:
        """The call has ended; whether the peer is lost, time tells."""
        if self.link is PeerLink.UP:
            self.link = PeerLink.CONNECTING

    def is_silent(self, now: float) -> bool:
        """Whether the receiver has been silent for too long."""
        return now - self._heard > SILENCE_S

    def excuse(self, seconds: float) -> None:
        """Do not count the last `seconds` as silence."""
        self._heard += seconds

    def check_lost(self, now: float) -> bool:
        """Call on a timer; True once, when the peer turns out to be lost."""
        if self.link is PeerLink.LOST or not self.is_silent(now):
            return False
        self.link = PeerLink.LOST
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


def _instead_of(frame: Frame, why: str) -> Frame:
    """What takes the number of a frame that the receiver cannot read."""
    if frame.kind is Kind.DATA:
        error = f"{frame.stage}: the frame cannot be read there: {why}"
        return replace(frame, kind=Kind.ERROR, payload=EMPTY, error=error[:_WHY_CHARS])
    # An end that cannot be read is told again by whoever keeps the request; this one says nothing.
    return Frame(Kind.LOST, frame.generation, 0, "", 0, "", "")
