"""How much may be under way to a stage of the receiver: the unit of backpressure.

Windows are kept per stage, not per stream, so that a full queue at one stage never holds up frames to another: stages
form a DAG, so queues always drain from the sinks up, also where devices send to each other both ways. What ends
requests (errors, confirmations) has no window at all and is never held up; its number is bounded by the requests in
flight.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tiermesh import limits
from tiermesh.frames import Frame, Kind


class FlowWindow(NamedTuple):
    """Frames and bytes that may be sent and not yet acknowledged. A receiver never takes back what it granted."""

    frames: int
    bytes: int


FULL: Final = FlowWindow(limits.STREAM_CREDIT_FRAMES, limits.STREAM_CREDIT_BYTES)
UNBOUNDED: Final = ""
"""The channel of frames that end requests."""


def channel(frame: Frame) -> str:
    """What the frame's window is kept for."""
    return frame.stage if frame.kind is Kind.DATA else UNBOUNDED
