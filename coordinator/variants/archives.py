"""Takes single files out of packages without installing them: wheels, npm tarballs, Debian packages."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tiermesh.errors import DigestMismatch, TiermeshError, Unsupported

_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError)


@contextmanager
def member(archive: Path, path: str) -> Generator[IO[bytes]]:
    """The file at `path` inside `archive`, opened for reading.

    Raises:
        DigestMismatch: the archive is damaged.
        TiermeshError: it has no such file.
    """
    try:
        with _opened(archive, path) as content:
            yield content
    except KeyError:
        raise TiermeshError(
            f"the package {archive.name} has no file {path}",
            fix="Correct `path` in the ladder, or name the version of the package that has it",
        ) from None
    except _DAMAGE as error:
        raise DigestMismatch(
            f"the package {archive.name} is damaged",
            why=f"{type(error).__name__}: {error}",
            fix="It was removed; fetch again",
        ) from None


@contextmanager
def _opened(archive: Path, path: str) -> Generator[IO[bytes]]:
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel, wheel.open(path) as content:
            yield content
    elif archive.suffix == ".deb":
        with _debian(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            yield _from_stream(tar, path)
    elif archive.name.endswith((".tgz", ".tar.gz")):
        with tarfile.open(archive) as tar:
            yield _file_of(tar, tar.getmember(path))
    else:
        raise Unsupported(
            f"{archive.name} is no kind of package that can be unpacked",
            fix="Allowed: .whl, .zip, .tgz, .tar.gz, .deb",
        )


@contextmanager
def _debian(archive: Path) -> Generator[IO[bytes]]:
    """The files of a Debian package as a stream of tar."""
    try:
        process = subprocess.Popen(  # noqa: S603 - the path is ours
            ["dpkg-deb", "--fsys-tarfile", str(archive)],  # noqa: S607
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise Unsupported(
            f"{archive.name} cannot be unpacked", why="there is no dpkg-deb on this machine"
        ) from None
    with process:
        assert process.stdout is not None  # noqa: S101 - asked for above
        yield process.stdout


def _from_stream(tar: tarfile.TarFile, path: str) -> IO[bytes]:
    for entry in tar:
        if entry.name.removeprefix("./") == path:
            return _file_of(tar, entry)
    raise KeyError(path)


def _file_of(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(entry) if entry.isfile() else None
    if content is None:
        raise KeyError(entry.name)
    return content
