"""The thread of a sink: what ends there is written in batches, and written again until it is on disk."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from msgspec.structs import replace

from agent.serving.endpoint_io.kinds import SinkEndpoint
from agent.serving.instructions import Write
from tiermesh.errors import TiermeshError
from tiermesh.frames import EMPTY, Kind

log = logging.getLogger(__name__)

_RETRY_S: Final = 1.0

Done: TypeAlias = Callable[[Sequence[Write]], None]
Trouble: TypeAlias = Callable[[str], None]
Failed: TypeAlias = Callable[[BaseException], None]


@dataclass(frozen=True, slots=True)
class _Dropping:
    """Ends of requests to take back."""

    ids: Collection[str]
    run: str
    done: Callable[[Mapping[str, Kind]], None]


class SinkWriter:
    """Writes what ends at a sink in a thread of its own; what waits when one write is over goes with the next.

    `done` is called with what is on disk, `trouble` with why nothing can be written now; it is tried again. An end that
    can never be written, such as for a fault in the kind of the sink, becomes one in an error. `failed` is called when
    the thread cannot go on: nothing that ends at the sink would ever be confirmed from then on.
    """

    def __init__(
        self,
        sink: SinkEndpoint,
        *,
        clock: Callable[[], float],
        done: Done,
        trouble: Trouble,
        failed: Failed,
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._done = done
        self._trouble = trouble
        self._failed = failed
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
        try:
            self._write_all()
        except BaseException as error:  # noqa: BLE001 - nothing may end this thread in silence
            self._failed(error)

    def _write_all(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, last = self._batch(first)
            if not self._write_until_done([one for one in batch if isinstance(one, Write)]):
                return
            for one in batch:
                if isinstance(one, _Dropping):
                    self._take_out(one)
            if last:
                return

    def _write_until_done(self, writes: Sequence[Write]) -> bool:
        """Write ends, and again until they are on disk; False: the sink was closed before they were."""
        while writes:
            try:
                self._sink.write(writes, self._clock())
            except TiermeshError as error:
                self._trouble(str(error))
                if self._closed.wait(_RETRY_S):
                    return False
            except Exception as error:  # noqa: BLE001 - a kind of sink may raise anything
                return self._write_apart(writes, error)
            else:
                self._done(writes)
                return True
        return True

    def _write_apart(self, writes: Sequence[Write], error: Exception) -> bool:
        """Write one by one what cannot be written together: the one to blame ends in an error.

        Raises:
            Exception: not even the error can be written.
        """
        if len(writes) > 1:
            return all(self._write_until_done([one]) for one in writes)
        (write,) = writes
        if isinstance(write, _Substitute):
            raise error
        log.error("the end of request %s cannot be written", write.frame.request_id, exc_info=error)
        return self._write_until_done([_error_of(write, error)])

    def _take_out(self, dropping: _Dropping) -> None:
        try:
            dropping.done(self._sink.drop(dropping.ids, dropping.run))
        except TiermeshError as error:
            # It is asked for again.
            self._trouble(str(error))
        except Exception as error:
            log.exception("a sink cannot take results back")
            self._trouble(f"{type(error).__name__}: {error}")

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


class _Substitute(Write, frozen=True):
    """The end of a request that cannot be written, as one in an error that can."""


def _error_of(write: Write, error: Exception) -> _Substitute:
    why = f"{write.sink}: its result cannot be written: {type(error).__name__}: {error}"
    text = why.encode("utf-8", "backslashreplace").decode()
    frame = replace(write.frame, kind=Kind.ERROR, payload=EMPTY, error=text)
    return _Substitute(write.sink, write.run, frame, write.release)
