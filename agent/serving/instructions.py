"""What a flow asks the I/O around it to do, and what a job on the compute lane came to."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeAlias

from agent.serving.entries import Entry
from agent.serving.ledger import Request
from tiermesh.frames import Frame, Packed


@dataclass(frozen=True, slots=True)
class Record:
    """Put accepted requests of a source on disk, then call `Flow.recorded`."""

    source: str
    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Read:
    """Read a request's file, then call `Flow.inject` with its payload, or `Flow.unreadable`."""

    source: str
    request: Request


@dataclass(frozen=True, slots=True)
class Forget:
    """Take a confirmed request out of a source's spool."""

    source: str
    request: Request


@dataclass(frozen=True, slots=True)
class Write:
    """Write the end of a request at a sink, then call `Flow.written`."""

    sink: str
    run: str
    frame: Frame
    release: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Wake:
    """Something waits to be sent to a device."""

    device: str


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """A device's windows have opened: tell it before the timer does."""

    device: str


@dataclass(frozen=True, slots=True)
class Hangup:
    """End the call to a device, which is lost; and call it again."""

    device: str


@dataclass(frozen=True, slots=True)
class Unload:
    """A generation has drained: free its replicas."""

    generation: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that people should see."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Log:
    """Something to write down, when there is time."""

    entry: Entry


Instruction: TypeAlias = (
    Record | Read | Forget | Write | Wake | Acknowledge | Hangup | Unload | Notice | Log
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request's items, each with the key that a batch's items share."""

    items: tuple[tuple[Hashable, Any], ...]


@dataclass(frozen=True, slots=True)
class Output:
    """What the stage made of the request."""

    payload: Packed


@dataclass(frozen=True, slots=True)
class Filtered:
    """The stage ends the request."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The stage failed on the request."""

    why: str


Outcome: TypeAlias = Prepared | Output | Filtered | Failed
