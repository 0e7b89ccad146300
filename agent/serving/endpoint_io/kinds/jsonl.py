"""JSON lines: a source that sends each line of a file, and a sink that writes a line for each request."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, overload

import msgspec

from agent.serving.endpoint_io.data_folder import DataFolder
from agent.serving.endpoint_io.kinds import SinkPlace
from agent.serving.endpoint_io.results import RecordedSink, ResultFile
from tiermesh import limits
from tiermesh.documents.assignment import SinkSpec, SourceSpec
from tiermesh.errors import InvalidDocument, LimitExceeded, TiermeshError
from tiermesh.frames import Payload


class LineItems:
    """The lines of a file that are not empty; an item is `FILE:NUMBER@OFFSET`, the number counted from 1.

    The file may grow meanwhile: lines that are added are sent from the next start of the source on. What is there
    must stay as it is.
    """

    keeps_order: Final = True

    def __init__(self, data: DataFolder, name: str) -> None:
        self._data = data
        self._name = name

    def items(self) -> Sequence[str]:
        """The lines that are there now; the file is read once, and 16 bytes are kept of each line.

        Raises:
            TiermeshError: there is no such file.
        """
        offsets, numbers, at = array("Q"), array("Q"), 0
        try:
            with self._data.open(self._name) as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        offsets.append(at)
                        numbers.append(number)
                    at += len(line)
        except OSError as error:
            raise TiermeshError(
                f"cannot read {self._name}", why=error.strerror or str(error)
            ) from None
        return _LineNames(self._name, offsets, numbers)

    def read(self, item: str) -> Payload:
        """The fields of a line.

        Raises:
            InvalidDocument: it is not a JSON object. LimitExceeded: it does not fit into a frame. TiermeshError: it
                cannot be read.
        """
        where, _, offset = item.rpartition("@")
        try:
            with self._data.open(where.rpartition(":")[0]) as file:
                file.seek(int(offset))
                line = file.readline(limits.FRAME_BYTES + 1)
        except (OSError, ValueError) as error:
            raise TiermeshError(f"cannot read {where}", why=str(error)) from None
        if len(line) > limits.FRAME_BYTES:
            raise LimitExceeded(
                f"{where} does not fit into a frame", why=f"the limit is {limits.FRAME_BYTES} bytes"
            )
        return _fields(line, where)


class _LineNames(Sequence[str]):
    """The items of lines, made when they are asked for."""

    def __init__(self, file: str, offsets: array[int], numbers: array[int]) -> None:
        self._file = file
        self._offsets = offsets
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return _LineNames(self._file, self._offsets[index], self._numbers[index])
        return f"{self._file}:{self._numbers[index]}@{self._offsets[index]}"


def _fields(line: bytes, where: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidDocument(
            f"{where} is not a request",
            why=str(error),
            fix="Write one JSON object a line; its fields are the payload",
        ) from None


class JsonlSourceKind:
    """`source: jsonl`."""

    def open(self, spec: SourceSpec, data: DataFolder) -> LineItems:
        """A source of the lines of the file that the spec names.

        Raises:
            InvalidDocument: it names none, or several.
        """
        if not isinstance(spec.path, str) or not spec.path:
            raise InvalidDocument("a jsonl source needs the path of one file", path="$.path")
        return LineItems(data, spec.path)


class JsonlSinkKind:
    """`sink: jsonl`: the file that people read is what the sink remembers by, too."""

    returns_results = False

    def record(self, spec: SinkSpec, place: SinkPlace) -> Path:
        """The file in the data folder.

        Raises:
            TiermeshError: it would be outside.
        """
        return place.data.path(spec.path) if spec.path is not None else place.record

    def open(self, spec: SinkSpec, place: SinkPlace) -> RecordedSink:
        """The file, with the payloads of results.

        Raises:
            TiermeshError: it cannot be written.
        """
        return RecordedSink(ResultFile(self.record(spec, place)), with_payload=True)


SOURCE: Final = JsonlSourceKind()
SINK: Final = JsonlSinkKind()
