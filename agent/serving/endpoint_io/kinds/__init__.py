"""The seam to the kinds of sources and sinks, each a module here, imported only when a workflow asks for it.

A module has a `SOURCE`, a `SINK`, or both; the options that a workflow file may give them are structs of
`tiermesh.documents.endpoints`. Whatever blocks is called in threads of their own, never in the event loop.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

from agent.serving.endpoint_io.data_folder import DataFolder
from agent.serving.endpoints.attainment import RequestOutcome
from agent.serving.endpoints.request import SinkResult
from agent.serving.endpoints.sink import OutcomeCounts
from agent.serving.instructions import Write
from tiermesh.documents.assignment import SinkSpec, SourceSpec
from tiermesh.errors import Unsupported
from tiermesh.frames import Kind, Payload


class ItemSource(Protocol):
    """A source that makes its own requests, of items. Methods block; one thread at a time."""

    @property
    def keeps_order(self) -> bool:
        """Whether the n-th item stays the n-th, as in a file that only grows; otherwise the spool keeps which it is."""
        ...

    def items(self) -> Sequence[str]:
        """What `read` is called with for one request after another; at the end it begins again where that is asked.

        Items are kept in the spool, so what one means must not change while its request is in flight.

        Raises:
            TiermeshError: what the source reads is not there, or cannot be used.
        """
        ...

    def read(self, item: str) -> Payload:
        """The payload of a request: the same each time, since a request that may be lost is sent again.

        Also of items of an earlier run, and before `items` is called.

        Raises:
            TiermeshError: it cannot be read; the request ends in an error.
        """
        ...


@dataclass(frozen=True, slots=True)
class RequestEnd:
    """What came of a request that was offered from outside."""

    request_id: str
    outcome: RequestOutcome
    results: Mapping[str, SinkResult]
    """By sink; of those only that return results, such as `sink: reply`."""


class Intake(Protocol):
    """Where a push source offers requests. May be called from any thread, and never blocks."""

    def offer(
        self,
        payload: Payload,
        *,
        name: str = "",
        ended: Callable[[RequestEnd], None] | None = None,
    ) -> Future[str]:
        """Offer a request; people see it by its `name`.

        The future has the request's id once the request is accepted and on disk: whatever fails from then on, it ends
        at every sink. `ended` is told how, in a thread that it must not block; not after the worker has been started
        again. The future fails with a LimitExceeded where as many requests wait as may (back-pressure: offer it later)
        and with another TiermeshError where the payload cannot be sent or the source has been stopped.
        """
        ...


@runtime_checkable
class PushSource(Protocol):
    """A source to which requests come from outside. Its methods are called in the event loop and must not block it."""

    async def start(self, intake: Intake) -> None:
        """Begin to offer what comes.

        Raises:
            TiermeshError: it cannot start, for example because its port is in use.
        """
        ...

    async def close(self) -> None:
        """Offer no more, and end."""
        ...


SourceEndpoint: TypeAlias = ItemSource | PushSource


class SourceKind(Protocol):
    """A kind of source."""

    def open(self, spec: SourceSpec, data: DataFolder) -> SourceEndpoint:
        """A source of this kind; nothing begins yet."""
        ...


class SinkPlace(NamedTuple):
    """Where a sink may write: the data folder of the device, and a file for what it must remember."""

    data: DataFolder
    record: Path


class SinkEndpoint(Protocol):
    """An open sink. Methods block; one thread at a time."""

    def recover(self, run: str) -> tuple[dict[str, Kind], OutcomeCounts]:
        """How each request ended here, by id, oldest first, and those of a run in numbers. Called first, once."""
        ...

    def write(self, ends: Sequence[Write], now: float) -> None:
        """Deliver the ends of requests, and remember them past a loss of power.

        Where it fails, all are written again until it does not: what was delivered already must not count twice, which
        the id of the request tells.

        Raises:
            TiermeshError: they cannot be written now.
        """
        ...

    def drop(self, ids: Collection[str], run: str) -> dict[str, Kind]:
        """Take the ends of requests back, which ended elsewhere too: how those that are of this run had ended.

        Raises:
            TiermeshError: they cannot be taken back now, and are all there.
        """
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class SinkKind(Protocol):
    """A kind of sink."""

    @property
    def returns_results(self) -> bool:
        """Whether results go back, with the confirmation, to the source that accepted the request."""
        ...

    def record(self, spec: SinkSpec, place: SinkPlace) -> Path:
        """The file that says which requests have ended here, as JSON lines (`results.ResultLine`).

        Raises:
            TiermeshError: it would be outside the data folder.
        """
        ...

    def open(self, spec: SinkSpec, place: SinkPlace) -> SinkEndpoint:
        """Open a sink of this kind; blocks.

        Raises:
            TiermeshError: it cannot be written.
        """
        ...


SOURCES: Final[dict[str, str]] = {
    "files": "agent.serving.endpoint_io.kinds.files",
    "jsonl": "agent.serving.endpoint_io.kinds.jsonl",
}
"""The module of each kind of source; the same kinds as in `tiermesh.documents.endpoints`."""
SINKS: Final[dict[str, str]] = {
    "jsonl": "agent.serving.endpoint_io.kinds.jsonl",
    "callback": "agent.serving.endpoint_io.kinds.callback",
    "files": "agent.serving.endpoint_io.kinds.files",
    "reply": "agent.serving.endpoint_io.kinds.reply",
}


def source_kind(name: str) -> SourceKind:
    """The kind of source of that name.

    Raises:
        Unsupported: this agent does not know it.
    """
    return importlib.import_module(_module("source", name, SOURCES)).SOURCE


def sink_kind(name: str) -> SinkKind:
    """The kind of sink of that name.

    Raises:
        Unsupported: this agent does not know it.
    """
    return importlib.import_module(_module("sink", name, SINKS)).SINK


def _module(role: str, name: str, modules: Mapping[str, str]) -> str:
    if name not in modules:
        raise Unsupported(
            f"this agent has no kind of {role} called {name!r}",
            why=f"it knows {', '.join(modules)}",
            fix="Update the agent on this device",
        )
    return modules[name]
