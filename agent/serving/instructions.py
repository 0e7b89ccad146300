"""What a flow asks the I/O around it to do, and what a job on the compute lane came to.

Structs and not dataclasses, because there is one of them for each frame.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

import msgspec

from agent.serving.aggregates.snapshot import Given
from agent.serving.endpoints.request import PossibleDuplicate, Request
from agent.serving.tuning.entries import Entry
from tiermesh.frames import Frame, Packed


class Record(msgspec.Struct, frozen=True):
    """Put accepted requests of a source on disk, then call `Flow.recorded`."""

    source: str
    requests: tuple[Request, ...]


class RejectOffers(msgspec.Struct, frozen=True):
    """Tell the clients of a source that their requests are not accepted, and why; `offers` are their numbers."""

    source: str
    offers: tuple[int, ...]
    why: str


class Read(msgspec.Struct, frozen=True):
    """Read a request's payload, then call `Flow.inject` with it, or `Flow.unreadable`."""

    source: str
    request: Request


class Forget(msgspec.Struct, frozen=True):
    """Take a confirmed request out of a source's spool."""

    source: str
    request: Request


class Settled(msgspec.Struct, frozen=True):
    """Take a duplicate, which counts nowhere else any more, out of a source's spool."""

    source: str
    duplicate: PossibleDuplicate


class Drop(msgspec.Struct, frozen=True):
    """Take the end of a request out of a sink's file, then call `Flow.dropped`: it has ended elsewhere."""

    sink: str
    frame: Frame


class Write(msgspec.Struct, frozen=True):
    """Write the end of a request at a sink, then call `Flow.written`."""

    sink: str
    run: str
    frame: Frame
    release: Callable[[], None] | None = None


class Wake(msgspec.Struct, frozen=True):
    """Something waits to be sent to a device."""

    device: str


class Acknowledge(msgspec.Struct, frozen=True):
    """A device's windows have opened: tell it before the timer does."""

    device: str


class Hangup(msgspec.Struct, frozen=True):
    """End the call to a device, which is lost; and call it again."""

    device: str


class Unload(msgspec.Struct, frozen=True):
    """A generation has drained: free its replicas."""

    generation: int


class Notice(msgspec.Struct, frozen=True):
    """Something that people should see."""

    kind: str
    text: str


class Dump(msgspec.Struct, frozen=True):
    """Read an aggregate's state once its running job has ended, then call `Flow.dumped`."""

    stage: str


class Adopt(msgspec.Struct, frozen=True):
    """Put a state on disk that an aggregate goes on from; empty: it begins anew. Then call `Flow.adopted`."""

    stage: str
    data: bytes
    generation: int
    token: str


class Own(msgspec.Struct, frozen=True):
    """Note on disk that an aggregate's state is no copy any more."""

    stage: str


class Give(msgspec.Struct, frozen=True):
    """Note on disk that an aggregate's state is another device's, then call `Flow.given`."""

    stage: str
    given: Given


class WriteLog(msgspec.Struct, frozen=True):
    """Something to write down, when there is time."""

    entry: Entry


StateInstruction: TypeAlias = Dump | Adopt | Own | Give

Instruction: TypeAlias = (
    Record
    | RejectOffers
    | Read
    | Forget
    | Write
    | Wake
    | Acknowledge
    | Hangup
    | Unload
    | Notice
    | WriteLog
    | Settled
    | Drop
    | StateInstruction
)


class Prepared(msgspec.Struct, frozen=True):
    """A request's items, each with the key that a batch's items share."""

    items: tuple[tuple[Hashable, Any], ...]


class StageOutput(msgspec.Struct, frozen=True):
    """What the stage made of the request."""

    payload: Packed


class Filtered(msgspec.Struct, frozen=True):
    """The stage ends the request."""


class StageFailed(msgspec.Struct, frozen=True):
    """The stage failed on the request."""

    why: str


Outcome: TypeAlias = Prepared | StageOutput | Filtered | StageFailed
