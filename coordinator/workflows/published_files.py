"""Files of published profiles: all of them are checked before any of them counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from tiermesh import limits
from tiermesh.documents.published import PublishedProfile, read_published
from tiermesh.errors import InvalidDocument, LimitExceeded


def read_published_files(sources: Iterable[Path]) -> list[PublishedProfile]:
    """The published profiles in files, and in the files ``*.json`` of folders and those below.

    Raises:
        InvalidDocument: a file cannot be read, or is wrong; names the file and the field. Or there is none.
        LimitExceeded: there are more than `limits.PUBLISHED_FILES`, or one is too large.
    """
    paths = [path for source in sources for path in _files(source)]
    if not paths:
        raise InvalidDocument(
            "there are no published profiles to import",
            why=f"no file *.json in {', '.join(map(str, sources))}",
            fix="Name files or folders; see: coordinator profiles export",
        )
    if len(paths) > limits.PUBLISHED_FILES:
        raise LimitExceeded(
            f"{len(paths)} published profiles are too many at once",
            why=f"the limit is {limits.PUBLISHED_FILES}",
            limit="PUBLISHED_FILES",
        )
    return [read_published(_content(path), f"the published profile {path}") for path in paths]


def _files(source: Path) -> Iterator[Path]:
    if source.is_dir():
        yield from sorted(path for path in source.rglob("*.json") if path.is_file())
    else:
        yield source


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            # One byte more than is allowed, so that what is too large is seen to be.
            return file.read(limits.DOCUMENT_BYTES + 1)
    except OSError as error:
        raise InvalidDocument(
            f"cannot read the published profile {path}",
            why=error.strerror or str(error),
            path=str(path),
        ) from None
