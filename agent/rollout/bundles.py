"""Unpacking a bundle of stage code, which comes from outside: nothing gets out of its folder."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, Final

from tiermesh import limits
from tiermesh.errors import LimitExceeded, StorageFull, TiermeshError

_MOST_BUNDLE_FILES: Final = 4_096
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED: Final = 0x1
_PIECE_BYTES: Final = 2**20


def unzip(bundle: Path, into: Path, free: int) -> None:
    """Put the bundle's content into a folder, of whose disk `free` bytes may be used.

    Raises:
        TiermeshError: it is no zip, or holds links, special files or paths that lead out of it.
        LimitExceeded: it unpacks to more than `limits.BUNDLE_UNPACKED_BYTES`.
        StorageFull: there is no room for it.
    """
    try:
        _unzip(bundle, into, free)
    except zipfile.BadZipFile as error:
        raise TiermeshError(
            "the bundle is not a zip",
            why=str(error),
            fix="Build the bundle again",
        ) from None


def _unzip(bundle: Path, into: Path, free: int) -> None:
    with zipfile.ZipFile(bundle) as archive:
        entries = archive.infolist()
        _check_entries(entries, free)
        for entry in entries:
            target = into.joinpath(*PurePosixPath(entry.filename).parts)
            if entry.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, target.open("wb") as file:
                _copy(source, file, entry)


def _copy(source: IO[bytes], file: IO[bytes], entry: zipfile.ZipInfo) -> None:
    """Copy what an entry holds, as long as it is what it declares: the check of all sizes binds only then."""
    left = entry.file_size
    while piece := source.read(_PIECE_BYTES):
        left -= len(piece)
        if left < 0:
            raise zipfile.BadZipFile(f"{entry.filename!r} is longer than it declares")
        file.write(piece)


def _check_entries(entries: list[zipfile.ZipInfo], free: int) -> None:
    total = sum(entry.file_size for entry in entries)
    if total > limits.BUNDLE_UNPACKED_BYTES or len(entries) > _MOST_BUNDLE_FILES:
        raise LimitExceeded(
            f"the bundle unpacks to {len(entries)} files of {total} bytes",
            why=f"the limits are {_MOST_BUNDLE_FILES} and {limits.BUNDLE_UNPACKED_BYTES}",
            limit="BUNDLE_UNPACKED_BYTES",
        )
    if total > free:
        raise StorageFull(
            "not enough disk space to unpack the bundle", why=f"it needs {total} of {free} bytes"
        )
    for entry in entries:
        _check_entry(entry)


def _check_entry(entry: zipfile.ZipInfo) -> None:
    parts = PurePosixPath(entry.filename).parts
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if not parts or parts[0].startswith("/") or ".." in parts or "\\" in entry.filename:
        raise TiermeshError(
            f"the bundle contains a path outside of it: {entry.filename!r}",
            fix="Build the bundle again, with relative paths only",
        )
    if entry.compress_type not in _METHODS or entry.flag_bits & _ENCRYPTED:
        # Other methods expand a million times, in memory, before a piece of it can be counted.
        raise TiermeshError(
            f"the bundle holds a file that is not stored or deflated: {entry.filename!r}",
            fix="Build the bundle again",
        )
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise TiermeshError(f"the bundle contains a link or a special file: {entry.filename!r}")
