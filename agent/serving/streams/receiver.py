"""The receiving end of a stream, as a state machine: the number wanted next, fencing, and windows.

The cursor moves only when a frame is in the receiver's care. What is in its care and not yet worked on is counted
per stage, and the windows are what is left.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.serving.streams.window import FULL, FlowWindow
from tiermesh.errors import TiermeshError
from tiermesh.frames import Frame, Kind


class Fenced(TiermeshError):
    """A newer stream of this sender has taken over."""

    kind = "fenced"


class Receiver:
    """One stream's receiving end. `full` is the window of a stage with nothing in care."""

    def __init__(self, full: FlowWindow = FULL) -> None:
        self.full = full
        self.next = 1
        self.duplicates = 0
        self._sender_epoch = 0
        self._session = 0
        self._held: dict[str, list[int]] = {}
        """Frames and bytes in care, by stage."""

    def open(self, sender_epoch: int, oldest: int) -> int:
        """A call begins; returns its session. Sessions before it are fenced off.

        Raises:
            Fenced: the sender has been started again since this call's sender was.
        """
        if sender_epoch < self._sender_epoch:
            raise Fenced(
                f"a stream of epoch {sender_epoch} is refused",
                why=f"its sender has been started again, as epoch {self._sender_epoch}",
            )
        if sender_epoch > self._sender_epoch:
            self.next = 1
        self._sender_epoch = sender_epoch
        # What the sender no longer keeps, it has sent elsewhere.
        self.next = max(self.next, oldest)
        self._session += 1
        return self._session

    def is_current(self, session: int) -> bool:
        """Whether no newer call has taken over."""
        return session == self._session

    def take(self, session: int, first: int, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Take numbered frames into care; returns those that are new. All or none: the cursor moves last.

        Raises:
            Fenced: a newer call of this sender has taken over.
            TiermeshError: frames before them are missing, or they are more than was granted.
        """
        if session != self._session:
            raise Fenced("stream closed", why="a newer stream of the same sender replaced it")
        if first > self.next:
            raise TiermeshError(f"frame {first} came", why=f"frame {self.next} is due")
        known = min(self.next - first, len(frames))
        new = frames[known:] if known else frames
        held = self._with(new)
        self.duplicates += known
        self._held = held
        self.next += len(new)
        return new

    def _with(self, frames: Sequence[Frame]) -> dict[str, list[int]]:
        """What is held, with these."""
        held = {name: one.copy() for name, one in self._held.items()}
        for frame in frames:
            if frame.kind is not Kind.DATA:
                continue
            one = held.get(frame.stage)
            if one is None:
                one = held[frame.stage] = [0, 0]
            one[0] += 1
            one[1] += frame.size
        for name, (count, size) in held.items():
            if count > self.full.frames or size > self.full.bytes:
                raise TiermeshError(
                    f"frames for {name} came", why=f"the window of {name} is closed"
                )
        return held

    def release(self, frame: Frame) -> bool:
        """The frame has been worked on: its window opens again. True: it was less than half open."""
        held = self._held.get(frame.stage) if frame.kind is Kind.DATA else None
        if held is None:
            return False
        full = self.full
        was_low = 2 * held[0] > full.frames or 2 * held[1] > full.bytes
        held[0] -= 1
        held[1] -= frame.size
        if not held[0]:
            del self._held[frame.stage]
        return was_low

    def window(self, name: str) -> FlowWindow:
        """What may be under way beyond `next` to one stage."""
        held = self._held.get(name)
        if held is None:
            return self.full
        return FlowWindow(self.full.frames - held[0], self.full.bytes - held[1])

    def windows(self) -> dict[str, FlowWindow]:
        """The windows that are not full, by stage."""
        return {name: self.window(name) for name in self._held}
