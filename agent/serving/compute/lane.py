"""The compute lane: the one thread of a worker that runs models and stage code, one job at a time."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from agent.serving.batcher import Job
from agent.serving.compute.runners import Outcomes, Runner
from agent.serving.instructions import StageFailed

log = logging.getLogger(__name__)

Done: TypeAlias = Callable[[Outcomes, float], None]
"""Called in the event loop with what a job came to, and its seconds."""


class ComputeLane:
    """Runs jobs in a daemon thread, so that a model that never returns cannot keep the process alive."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="compute", daemon=True)
        self._thread.start()
        self.is_free = True

    def run(self, runner: Runner, job: Job, done: Done) -> None:
        """Run a job; the lane is not free until it is done."""
        self.is_free = False
        self._queue.put(lambda: self._run(runner, job, done))

    def call(self, work: Callable[[], None]) -> None:
        """Run something else between jobs, such as closing a model."""
        self._queue.put(work)

    def close(self) -> None:
        """End the thread once its job is done; do not wait for it."""
        self._queue.put(None)

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except Exception:
                log.exception("the compute lane failed")

    def _run(self, runner: Runner, job: Job, done: Done) -> None:
        began = time.perf_counter()
        outcomes: Outcomes
        try:
            outcomes = runner.run(job)
        except Exception as error:  # noqa: BLE001 - a request must not stop the lane
            works = dict.fromkeys([*job.works, *(item.work for item in job.items)])
            outcomes = [(work, StageFailed(f"{type(error).__name__}: {error}")) for work in works]
        seconds = time.perf_counter() - began
        self._loop.call_soon_threadsafe(self._finish, done, outcomes, seconds)

    def _finish(self, done: Done, outcomes: Outcomes, seconds: float) -> None:
        self.is_free = True
        done(outcomes, seconds)
