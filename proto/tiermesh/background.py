"""Work that nobody waits for: whatever it raises is heard, by construction.

The exception of a task or of a job in a thread is kept in its future. Where nobody asks for the future's result, the
work has failed and nobody knows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec

P = ParamSpec("P")

log = logging.getLogger(__name__)


class Background:
    """Tasks that go on by themselves until they end, or until `close`; a failure is logged with its traceback."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Start a task; it is kept until it ends, since the event loop keeps no task by itself."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)

    async def finish(self) -> None:
        """Wait for all that is under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Cancel what is under way, and wait for its end."""
        for task in self._tasks:
            task.cancel()
        await self.finish()


def submit(
    executor: Executor,
    failed: Callable[[BaseException], None],
    work: Callable[P, object],
    *args: P.args,
    **kwargs: P.kwargs,
) -> None:
    """Have a thread do a piece of work; `failed` is called, in that thread, with what it raises."""

    def ended(future: Future[object]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            failed(error)

    executor.submit(work, *args, **kwargs).add_done_callback(ended)
