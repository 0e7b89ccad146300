"""The thread of a sink: what ends there is written in batches, and written again until it is on disk."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from agent.serving.endpoint_io.kinds import SinkEndpoint
from agent.serving.instructions import Write
from tiermesh.errors import TiermeshError
from tiermesh.frames import Kind

_RETRY_S: Final = 1.0

Done: TypeAlias = Callable[[Sequence[Write]], None]
Trouble: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Dropping:
    """Ends of requests to take back."""

    ids: Collection[str]
    run: str
    done: Callable[[Mapping[str, Kind]], None]


class SinkWriter:
    """Writes what ends at a sink in a thread of its own; what waits when one write is over goes with the next.

    `done` is called with what is on disk, `trouble` with why nothing can be written now; it is tried again.
    """

    def __init__(
        self,
        sink: SinkEndpoint,
        *,
        clock: Callable[[], float],
        done: Done,
        trouble: Trouble,
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._done = done
        self._trouble = trouble
        self._queue: queue.SimpleQueue[Write | _Dropping | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sink", daemon=True)
        self._thread.start()

    def put(self, write: Write) -> None:
        """Queue the end of a request."""
        self._queue.put(write)

    def drop(
        self, ids: Collection[str], run: str, done: Callable[[Mapping[str, Kind]], None]
    ) -> None:
        """Take ends of requests back, then call `done` with how those of this run had ended."""
        self._queue.put(_Dropping(ids, run, done))

    def close(self) -> None:
        """Write what waits, and end."""
        self._closed.set()
        self._queue.put(None)
        self._thread.join()
        self._sink.close()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, last = self._batch(first)
            writes = [one for one in batch if isinstance(one, Write)]
            while writes and not self._write(writes):
                if self._closed.wait(_RETRY_S):
                    return
            self._done(writes)
            for one in batch:
                if isinstance(one, _Dropping):
                    self._take_out(one)
            if last:
                return

    def _take_out(self, dropping: _Dropping) -> None:
        try:
            dropping.done(self._sink.drop(dropping.ids, dropping.run))
        except TiermeshError as error:
            # It is asked for again.
            self._trouble(str(error))

    def _batch(self, first: Write | _Dropping) -> tuple[list[Write | _Dropping], bool]:
        batch = [first]
        while True:
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
            if more is None:
                return batch, True
            batch.append(more)

    def _write(self, writes: Sequence[Write]) -> bool:
        try:
            self._sink.write(writes, self._clock())
        except TiermeshError as error:
            self._trouble(str(error))
            return False
        return True
