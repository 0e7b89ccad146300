"""What the agent and its worker say to each other: one JSON document a line, over a socket pair.

The worker's standard output belongs to stage code. The end of the socket is the end of the agent: the worker exits.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, TypeAlias

import msgspec

from tiermesh import limits
from tiermesh.documents.assignment import Assignment
from tiermesh.wire import LOOPBACK, AnyCredentials


class _Message(msgspec.Struct, tag_field="message", tag=str.lower, frozen=True):
    """Base of all messages."""


class Start(_Message, frozen=True, kw_only=True):
    """The first message. `epoch` grows with each start of a worker of this device."""

    device: str
    epoch: int
    data_address: str
    data_folder: str
    state_folder: str
    store: str
    slowdown: float = 1.0
    threads: int = 1
    memory_bytes: int = 0
    credentials: AnyCredentials = LOOPBACK
    batch_log: bool = True


class PrepareCall(_Message, frozen=True):
    """Load, warm and test an assignment."""

    call: int
    assignment: Assignment


class CommitCall(_Message, frozen=True):
    """Switch new requests to a prepared generation."""

    call: int
    workflow: str
    generation: int


class AbortCall(_Message, frozen=True):
    """Forget a prepared generation."""

    call: int
    workflow: str
    generation: int


class StopCall(_Message, frozen=True):
    """Drain a workflow and forget it."""

    call: int
    workflow: str


class Standby(_Message, frozen=True):
    """Keep the replicas of an assignment loaded, in place of those that were kept so for its workflow."""

    call: int
    assignment: Assignment


class Ready(_Message, frozen=True):
    """The worker takes frames."""

    pid: int


class Stepped(_Message, frozen=True):
    """A step of preparing a replica is done."""

    call: int
    step: str
    replica: str
    seconds: float


class Done(_Message, frozen=True):
    """A call has succeeded."""

    call: int


class CallFailed(_Message, frozen=True):
    """A call, or with `call` 0 the start, has failed; `error` is a TiermeshError's `to_dict`."""

    call: int
    error: dict[str, Any]


class Event(_Message, frozen=True):
    """Something that people should see."""

    kind: str
    text: str


class WorkerStats(_Message, frozen=True):
    """All that a worker does, as of now. Sent by itself, several times a second.

    `figures` is a `WorkerFigures` of telemetry.proto: the agent passes it on as it is.
    """

    figures: bytes


ToWorker: TypeAlias = Start | PrepareCall | CommitCall | AbortCall | StopCall | Standby
ToAgent: TypeAlias = Ready | Stepped | Done | CallFailed | Event | WorkerStats

LINE_BYTES: Final = limits.DOCUMENT_BYTES
_ENCODER: Final = msgspec.json.Encoder(enc_hook=float)


def encode(message: ToWorker | ToAgent) -> bytes:
    """A message as a line."""
    return _ENCODER.encode(message) + b"\n"


async def read_to_worker(reader: asyncio.StreamReader) -> ToWorker | None:
    """The agent's next message; None when it has gone."""
    line = await _line(reader)
    return msgspec.json.decode(line, type=ToWorker) if line else None


async def read_to_agent(reader: asyncio.StreamReader) -> ToAgent | None:
    """The worker's next message; None when it has gone."""
    line = await _line(reader)
    return msgspec.json.decode(line, type=ToAgent) if line else None


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        line = await reader.readline()
    except ConnectionError:
        return b""
    return line if line.endswith(b"\n") else b""
