"""Who keeps the fleet: every event goes through the journal before it changes the state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from coordinator.fleet import Fleet, apply, events, is_news
from coordinator.fleet.event_text import FAILURES, described
from coordinator.journal.store import Entry, Journal

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class Recorder:
    """The fleet as a journal has it. `change` is set, and replaced, with each change."""

    def __init__(
        self, journal: Journal, fleet: Fleet, *, who: str, clock: Callable[[], float]
    ) -> None:
        self.fleet = fleet
        self.change = asyncio.Event()
        self.who = who
        self.now = clock
        self._journal = journal
        self._thread = ThreadPoolExecutor(1, "journal")
        self._writing = asyncio.Lock()

    async def close(self) -> None:
        """Keep a snapshot."""
        try:
            await self._in_thread(self._journal.save_snapshot, self.fleet, force=True)
        finally:
            await asyncio.to_thread(self._thread.shutdown)

    async def record(self, *happened: events.Event) -> None:
        """Write events to the journal, then apply them; a caller that is cancelled stops neither."""
        if happened:
            await asyncio.shield(asyncio.ensure_future(self._record(happened)))

    async def _record(self, happened: Sequence[events.Event]) -> None:
        async with self._writing:
            fleet, news = self.fleet, list[events.Event]()
            for event in happened:
                after = apply(event, fleet)
                if is_news(event, fleet, after):
                    news.append(event)
                fleet = after
            if news:
                await self._in_thread(self._journal.append, news)
            self.fleet = fleet
            for event in news:
                _log(event, fleet)
            changed, self.change = self.change, asyncio.Event()
            changed.set()

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """SQLite blocks, and is used from one thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: work(*args, **kwargs))

    async def snapshot(self) -> tuple[int, Fleet]:
        """The state, and the number of the newest event that it has."""
        async with self._writing:
            # Nothing is written meanwhile, so that the number and the state are of one moment.
            newest = await self.history(limit=1)
            return newest[-1].number if newest else 0, self.fleet

    async def reload(self) -> None:
        """Take the state from the journal, where another process writes it."""
        self.fleet = await self._in_thread(self._journal.load)

    async def history(
        self,
        *,
        after: int = 0,
        before: int = 0,
        kinds: Sequence[str] = (),
        about: str = "",
        limit: int | None = None,
    ) -> list[Entry]:
        """What the journal holds, oldest first; `about` is a device id or a workflow.

        Numbers are above `after` and, unless it is 0, below `before`; with `limit`, the newest that many of these.
        """
        return await self._in_thread(
            self._journal.events, after=after, before=before, kinds=kinds, about=about, limit=limit
        )

    async def note(self, text: str) -> None:
        """Put a line into the audit."""
        await self.record(events.OperatorNoted(at=self.now(), who=self.who, text=text))


def _log(event: events.Event, fleet: Fleet) -> None:
    """Every step of the coordinator is an event, so this line is the log of them all."""
    level = logging.WARNING if event.kind in FAILURES else logging.INFO
    if log.isEnabledFor(level):
        log.log(level, "%s %s", event.kind, described(event, fleet), extra={"event": event.kind})
