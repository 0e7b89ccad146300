"""Files: a source that sends each file of folders, and a sink that writes a file for each value of a result."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.durable import write_whole
from agent.serving.endpoint_io.data_folder import DataFolder
from agent.serving.endpoint_io.kinds import SinkPlace
from agent.serving.endpoint_io.results import RecordedSink, ResultFile, line_of
from agent.serving.instructions import Write
from tiermesh.documents.assignment import SinkSpec, SourceSpec
from tiermesh.documents.endpoints import FILES_FIELD
from tiermesh.errors import StorageFull, TiermeshError
from tiermesh.frames import Kind, Payload, Tensor

_NPY_HEAD: Final = b"\x93NUMPY\x01\x00"
_NPY_ALIGN: Final = 64


class FileItems:
    """The files that `path` names, in order; an item is the name of one.

    Files may come and go meanwhile: those that come are sent after the others, from the next start of the source on;
    the request of one that is gone ends in an error.
    """

    keeps_order: Final = False

    def __init__(self, data: DataFolder, path: str | list[str], value: str) -> None:
        self._data = data
        self._path = path
        self._value = value

    def items(self) -> Sequence[str]:
        """The names of the files, and of those in the folders named.

        Raises:
            TiermeshError: a name is outside the data folder, or nothing of that name is there.
        """
        return self._data.files(self._path)

    def read(self, item: str) -> Payload:
        """The file's name as `name`, and its content.

        Raises:
            TiermeshError: it cannot be read, or is too large for a frame.
        """
        return {"name": item, self._value: self._data.read(item)}


class FilesSourceKind:
    """`source: files`."""

    def open(self, spec: SourceSpec, data: DataFolder) -> FileItems:
        """A source of the files that the spec names."""
        return FileItems(data, spec.path, str(spec.options.get("field", FILES_FIELD)))


class FileFolder(RecordedSink):
    """A folder with, for each request, `ID.json`, and for bytes and arrays of its result `ID.NAME.bin` and `.npy`."""

    def __init__(self, folder: Path, record: ResultFile) -> None:
        super().__init__(record, with_payload=False)
        self._folder = folder

    def write(self, ends: Sequence[Write], now: float) -> None:
        """Write the files of requests, whole, and then remember them.

        Raises:
            StorageFull: they cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for end in ends:
                for name, data in _files_of(end, now):
                    write_whole(self._folder / name, data)
        except OSError as error:
            raise StorageFull(
                "a sink cannot write its results",
                why=error.strerror or str(error),
                fix="Free disk space on the device; nothing is lost meanwhile",
            ) from None
        super().write(ends, now)

    def drop(self, ids: Collection[str], run: str) -> dict[str, Kind]:
        """Remove the files of requests, and forget them.

        Raises:
            TiermeshError: they cannot be removed.
        """
        try:
            for request_id in ids:
                for file in list(self._folder.glob(f"{request_id}.*")):
                    file.unlink(missing_ok=True)
        except OSError as error:
            raise TiermeshError(
                "a sink cannot remove what was answered elsewhere",
                why=error.strerror or str(error),
            ) from None
        return super().drop(ids, run)


class FilesSinkKind:
    """`sink: files`."""

    returns_results = False

    def record(self, spec: SinkSpec, place: SinkPlace) -> Path:
        """A file beside the agent's state: the folder holds results only."""
        return place.record

    def open(self, spec: SinkSpec, place: SinkPlace) -> FileFolder:
        """The folder `path` of the data folder.

        Raises:
            TiermeshError: it would be outside, or the record cannot be written.
        """
        folder = place.data.path(spec.path or "")
        if folder.exists() and not folder.is_dir():
            raise TiermeshError(f"{spec.path} in the data folder is not a folder")
        return FileFolder(folder, ResultFile(self.record(spec, place)))


def _files_of(end: Write, now: float) -> Iterator[tuple[str, bytes]]:
    """The names and contents of a request's files; the one in JSON last, so that the others are there with it."""
    request_id = end.frame.request_id
    for name, value in _values(end).items():
        plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
        if isinstance(value, bytes):
            yield f"{request_id}.{plain}.bin", value
        elif isinstance(value, Tensor):
            yield f"{request_id}.{plain}.npy", npy(value)
    yield f"{request_id}.json", msgspec.json.encode(line_of(end.frame, end.run, now)) + b"\n"


def _values(end: Write) -> Mapping[str, Any]:
    values: dict[str, Any] = {}
    if end.frame.kind is Kind.DATA:
        with contextlib.suppress(TiermeshError):
            values = end.frame.payload.unpack()
    return values


def npy(tensor: Tensor) -> bytes:
    """An array in NumPy's file format, version 1.0, which needs no NumPy.

    Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    header = repr({"descr": tensor.dtype, "fortran_order": False, "shape": tuple(tensor.shape)})
    padding = -(len(_NPY_HEAD) + 2 + len(header) + 1) % _NPY_ALIGN
    text = header.encode("latin1") + b" " * padding + b"\n"
    return _NPY_HEAD + len(text).to_bytes(2, "little") + text + bytes(tensor.data)


SOURCE: Final = FilesSourceKind()
SINK: Final = FilesSinkKind()
