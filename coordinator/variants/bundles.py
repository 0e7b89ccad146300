"""Stage code as an artifact: a folder becomes one zip whose bytes depend on its files only.

The folder's ``stage.toml`` names the `entry` (``module:Class``) and the Python modules that the code `requires`.
"""

from __future__ import annotations

import io
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from coordinator.variants.cache import Cache
from tiermesh import ids, limits
from tiermesh.documents.reading import Document, convert
from tiermesh.documents.variant import Artifact, Bundle
from tiermesh.errors import InvalidDocument, LimitExceeded

MANIFEST: Final = "stage.toml"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_READ_WRITE: Final = 0o100644 << 16


class Manifest(Document, frozen=True, kw_only=True):
    """The content of `stage.toml`."""

    entry: str
    requires: list[str] = []


def bundle(folder: Path, home: Path) -> Bundle:
    """Zip a folder of stage code into the cache at `home`; equal files give equal bytes everywhere.

    Raises:
        InvalidDocument: no `stage.toml`, or it is wrong, or the entry's module is not in the folder.
        LimitExceeded: the folder holds more than a device would unpack.
    """
    manifest = read_manifest(folder)
    content = _zipped(folder)
    artifact = Artifact(digest=ids.digest_bytes(content), size_bytes=len(content))
    cache = Cache(home)
    if not cache.has(artifact):
        cache.add(io.BytesIO(content))
    plain = {
        "artifact": {"digest": artifact.digest, "size_bytes": artifact.size_bytes},
        "entry": manifest.entry,
        "requires": manifest.requires,
    }
    return convert(plain, Bundle, f"the stage code {folder.name}/{MANIFEST}")


def read_manifest(folder: Path) -> Manifest:
    """Read and check a folder's `stage.toml`; see `bundle` for the errors."""
    what = f"the stage code {folder.name}/{MANIFEST}"
    try:
        plain = tomllib.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidDocument(
            f"{what} cannot be read",
            why=str(error),
            fix='A folder of stage code has a stage.toml with `entry = "module:Class"`',
            path="$",
        ) from None
    manifest = convert(plain, Manifest, what)
    module = manifest.entry.partition(":")[0].replace(".", "/")
    if not any((folder / name).is_file() for name in (f"{module}.py", f"{module}/__init__.py")):
        raise InvalidDocument(
            f"{what} is wrong at `$.entry`",
            why=f"there is no module {module}.py in the folder",
            path="$.entry",
            found=manifest.entry,
        )
    return manifest


def _zipped(folder: Path) -> bytes:
    """Sorted, undated and uncompressed: compressors differ between versions."""
    content, size = io.BytesIO(), 0
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for path in _files(folder):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _EPOCH)
            entry.create_system, entry.external_attr = 3, _READ_WRITE
            data = path.read_bytes()
            size += len(data)
            if size > limits.BUNDLE_UNPACKED_BYTES:
                raise LimitExceeded(
                    f"the stage code {folder.name} is too large",
                    why=f"the limit is {limits.BUNDLE_UNPACKED_BYTES} bytes",
                    limit="BUNDLE_UNPACKED_BYTES",
                )
            archive.writestr(entry, data)
    return content.getvalue()


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*"), key=lambda p: p.relative_to(folder).as_posix()):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if path.is_file() and not hidden:
            yield path
