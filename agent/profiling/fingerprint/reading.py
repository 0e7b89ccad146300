"""Reading the small files of /proc and /sys, which may be absent or unreadable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def text(file: Path) -> str:
    """The file's text without blanks and zero bytes around it; empty where it cannot be read."""
    try:
        return file.read_bytes().decode(errors="replace").strip("\0 \t\r\n")
    except OSError:
        return ""


def number(file: Path) -> int | None:
    """The whole number in the file; None where it cannot be read or is none."""
    try:
        return int(text(file), 0)
    except ValueError:
        return None


def fields(file: Path, separator: str = ":") -> Iterator[tuple[str, str]]:
    """The `name: value` lines of the file."""
    for line in text(file).splitlines():
        name, found, value = line.partition(separator)
        if found:
            yield name.strip(), value.strip()


def entries(folder: Path, pattern: str = "*") -> list[Path]:
    """What is in the folder, sorted; nothing where it is not there."""
    return sorted(folder.glob(pattern))
