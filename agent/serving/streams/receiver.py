"""The receiving end of a stream, as a state machine: the number wanted next, fencing, and windows.

The cursor moves only when a frame is in the receiver's care. What is in its care and not yet worked on is counted
per stage, and the windows are what is left.
"""

from __future__ import annotations

from agent.serving.streams.window import FULL, UNBOUNDED, Window, channel
from tiermesh.errors import TiermeshError
from tiermesh.frames import Frame


class Fenced(TiermeshError):
    """A newer stream of this sender has taken over."""

    kind = "fenced"


class Receiver:
    """One stream's receiving end. `full` is the window of a stage with nothing in care."""

    def __init__(self, full: Window = FULL) -> None:
        self.full = full
        self.next = 1
        self.duplicates = 0
        self._sender_epoch = 0
        self._session = 0
        self._held: dict[str, Window] = {}

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

    def is_new(self, session: int, number: int, frame: Frame) -> bool:
        """Whether the frame of that number is the one wanted next; False: it is here already.

        Raises:
            Fenced: a newer call of this sender has taken over.
            TiermeshError: frames before it are missing, or it is more than was granted.
        """
        if session != self._session:
            raise Fenced("a stream is cut off", why="a newer one of the same sender has taken over")
        if number < self.next:
            self.duplicates += 1
            return False
        if number > self.next:
            raise TiermeshError(f"frame {number} came", why=f"frame {self.next} is due")
        name = channel(frame)
        left = self.window(name)
        if name != UNBOUNDED and (left.frames < 1 or left.bytes < frame.size):
            raise TiermeshError(f"frame {number} came", why=f"the window of {name} is closed")
        return True

    def hold(self, frame: Frame) -> None:
        """The frame is in care now: the cursor moves on and its window shrinks."""
        self.next += 1
        self._count(channel(frame), 1, frame.size)

    def release(self, frame: Frame) -> bool:
        """The frame has been worked on: its window opens again. True: it was less than half open."""
        before = self.window(channel(frame))
        self._count(channel(frame), -1, -frame.size)
        return 2 * before.frames < self.full.frames or 2 * before.bytes < self.full.bytes

    def _count(self, name: str, frames: int, size: int) -> None:
        if name == UNBOUNDED:
            return
        held = self._held.get(name, Window(0, 0))
        held = Window(held.frames + frames, held.bytes + size)
        if held.frames:
            self._held[name] = held
        else:
            self._held.pop(name, None)

    def window(self, name: str) -> Window:
        """What may be under way beyond `next` to one stage."""
        held = self._held.get(name)
        if held is None:
            return self.full
        return Window(self.full.frames - held.frames, self.full.bytes - held.bytes)

    def windows(self) -> dict[str, Window]:
        """The windows that are not full, by stage."""
        return {name: self.window(name) for name in self._held}
