"""The file of a sink: one JSON line for each request that ended there. It is the sink's memory, too.

A line is on the disk, past all caches, before the request is confirmed; many share one sync.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection, Sequence
from io import RawIOBase
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from agent.serving.endpoints.sink import OutcomeCounts
from agent.serving.instructions import Write
from tiermesh.errors import StorageFull, TiermeshError
from tiermesh.frames import Frame, Kind, Tensor

log = logging.getLogger(__name__)

OUTCOMES: Final = {Kind.DATA: "result", Kind.ERROR: "error", Kind.FILTERED: "filtered"}
_KINDS: Final = {outcome: kind for kind, outcome in OUTCOMES.items()}


class ResultLine(msgspec.Struct, omit_defaults=True):
    """One line. Times are Unix seconds: `accepted_at` by the source's clock, `finished_at` by the sink's."""

    id: str
    outcome: str
    run: str = ""
    name: str | None = None
    payload: Any = None
    error: str = ""
    accepted_at: float = 0.0
    finished_at: float = 0.0
    attempts: int = 0
    lane: int = 0
    generation: int = 0


class _Known(msgspec.Struct):
    id: str
    outcome: str
    run: str = ""


def line_of(frame: Frame, run: str, now: float, *, with_payload: bool = True) -> ResultLine:
    """The line of a request that ends with `frame`; tensors and bytes are summarised."""
    try:
        values = frame.payload.unpack()
    except TiermeshError as error:
        values = {"unreadable": str(error)}
    name = values.get("name")
    return ResultLine(
        id=frame.request_id,
        outcome=OUTCOMES[frame.kind],
        run=run,
        name=name if isinstance(name, str) else None,
        payload=summary(values) if with_payload and frame.kind is Kind.DATA else None,
        error=frame.error,
        accepted_at=round(frame.accepted_at, 6),
        finished_at=round(now, 6),
        attempts=frame.attempt,
        lane=frame.lane,
        generation=frame.generation,
    )


def summary(value: Any) -> Any:
    """A value as JSON can say it: of tensors and bytes, their form and size."""
    if isinstance(value, Tensor):
        return {"tensor": value.dtype, "shape": value.shape}
    if isinstance(value, bytes):
        return {"bytes": len(value)}
    if isinstance(value, dict):
        return {str(key): summary(inner) for key, inner in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list):
        return [summary(inner) for inner in cast("list[Any]", value)]
    return value


class ResultFile:
    """The file itself. Methods block; one thread at a time."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        try:
            self._file = _opened(path)
        except OSError as error:
            raise TiermeshError(
                f"a sink cannot write {path.name}", why=error.strerror or str(error)
            ) from None
        self._encoder = msgspec.json.Encoder()

    def remembered(self, run: str) -> tuple[dict[str, Kind], OutcomeCounts]:
        """How each request ended, by id, oldest first, and those of a run in numbers. A cut line is removed."""
        ids: dict[str, Kind] = {}
        counts = OutcomeCounts()
        decoder = msgspec.json.Decoder(_Known)
        whole = 0
        self._file.seek(0)
        with os.fdopen(os.dup(self._file.fileno()), "rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                try:
                    known = decoder.decode(line)
                    bytes.fromhex(known.id)
                except (msgspec.MsgspecError, ValueError):
                    log.warning("ignoring line %d of a sink's file: not a result", number)
                    continue
                ids[known.id] = _KINDS.get(known.outcome, Kind.DATA)
                if known.run == run and known.outcome in _KINDS:
                    counts.count(_KINDS[known.outcome])
        self._end = whole
        self._cut()
        return ids, counts

    def append(self, lines: Sequence[ResultLine]) -> None:
        """Add lines and bring them to the disk, all or none.

        Raises:
            StorageFull: they cannot be written.
        """
        data = b"".join(self._encoder.encode(line) + b"\n" for line in lines)
        why = self._write(data)
        if why is not None:
            self._cut()
            raise StorageFull(
                "a sink cannot write its results",
                why=why,
                fix="Free disk space on the device; nothing is lost meanwhile",
            )
        self._end += len(data)

    def _write(self, data: bytes) -> str | None:
        """Write and sync; why it failed, or None."""
        try:
            if self._file.write(data) != len(data):
                return "no space left on the disk"
            os.fsync(self._file.fileno())
        except OSError as error:
            return error.strerror or str(error)
        return None

    def drop(self, ids: Collection[str], run: str) -> dict[str, Kind]:
        """Take lines out: how the requests ended that are of this run. The file is another one afterwards.

        Raises:
            StorageFull: it cannot be written anew, and is as it was.
        """
        anew = self._path.with_name(self._path.name + ".part")
        try:
            kinds, self._end = self._write_without(anew, frozenset(ids), run)
            anew.replace(self._path)
            self._file.close()
            self._file = _opened(self._path)
        except OSError as error:
            anew.unlink(missing_ok=True)
            raise StorageFull(
                "a sink cannot remove results that another sink delivered",
                why=error.strerror or str(error),
                fix="Free disk space on the device",
            ) from None
        self._file.seek(self._end)
        return kinds

    def _write_without(
        self, anew: Path, ids: frozenset[str], run: str
    ) -> tuple[dict[str, Kind], int]:
        """Write a file without some lines; how long it is."""
        decoder, kinds = msgspec.json.Decoder(_Known), dict[str, Kind]()
        with self._path.open("rb") as lines, anew.open("wb") as kept:
            for line in lines:
                known = _Known("", "")
                with contextlib.suppress(msgspec.MsgspecError):
                    known = decoder.decode(line)
                if known.id not in ids:
                    kept.write(line)
                elif known.run == run and known.outcome in _KINDS:
                    kinds[known.id] = _KINDS[known.outcome]
            kept.flush()
            os.fsync(kept.fileno())
            return kinds, kept.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _cut(self) -> None:
        self._file.truncate(self._end)
        self._file.seek(self._end)


def _opened(path: Path) -> RawIOBase:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return cast("RawIOBase", os.fdopen(os.open(path, flags, 0o644), "r+b", buffering=0))


def read_outcomes(path: Path) -> dict[str, Kind]:
    """How each request ended, by id, in the whole lines of a sink's file that somebody may still write; blocks."""
    decoder = msgspec.json.Decoder(_Known)
    ids: dict[str, Kind] = {}
    with path.open("rb") as lines:
        for line in lines:
            with contextlib.suppress(msgspec.MsgspecError, ValueError):
                known = decoder.decode(line)
                bytes.fromhex(known.id)
                ids[known.id] = _KINDS.get(known.outcome, Kind.DATA)
    return ids


class RecordedSink:
    """A sink that remembers by a file of JSON lines; what kinds deliver besides, they deliver before it is noted there.

    Methods block; one thread at a time.
    """

    def __init__(self, record: ResultFile, *, with_payload: bool) -> None:
        self._record = record
        self._with_payload = with_payload

    def recover(self, run: str) -> tuple[dict[str, Kind], OutcomeCounts]:
        """How each request ended, by id, oldest first, and those of a run in numbers."""
        return self._record.remembered(run)

    def write(self, ends: Sequence[Write], now: float) -> None:
        """Add the ends of requests to the file.

        Raises:
            StorageFull: they cannot be written.
        """
        self._record.append(
            [line_of(one.frame, one.run, now, with_payload=self._with_payload) for one in ends]
        )

    def drop(self, ids: Collection[str], run: str) -> dict[str, Kind]:
        """Take the ends of requests out of the file: how those that are of this run had ended.

        Raises:
            StorageFull: it cannot be written anew.
        """
        return self._record.drop(ids, run)

    def close(self) -> None:
        """Close the file."""
        self._record.close()
