"""Nested values as lines that people read; the agent has no library for tables."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

_UNITS = ("B", "kB", "MB", "GB", "TB")


def readable(value: Mapping[str, Any], width: int) -> list[str]:
    """A line for each value: flat objects and lists on one line, wrapped; the others indented below their key."""
    return [line for key, content in value.items() for line in _lines(key, content, "", width)]


def _lines(key: str, content: Any, indent: str, width: int) -> Iterator[str]:
    if isinstance(content, dict) and not _flat(cast("dict[str, Any]", content)):
        yield f"{indent}{key}:"
        yield from _inner(cast("dict[str, Any]", content), indent + "  ", width)
    elif isinstance(content, list) and not _flat(cast("list[Any]", content)):
        yield f"{indent}{key}:"
        for item in cast("list[Any]", content):
            if not isinstance(item, dict):
                yield f"{indent}  - {_inline(key, item)}"
                continue
            lines = _inner(cast("dict[str, Any]", item), indent + "    ", width) or ["none"]
            yield f"{indent}  - {lines[0].lstrip()}"
            yield from lines[1:]
    else:
        yield from textwrap.wrap(
            f"{_word(key)}: {_inline(key, content)}",
            width,
            initial_indent=indent,
            subsequent_indent=indent + "  ",
            break_on_hyphens=False,
        )


def _inner(content: Mapping[str, Any], indent: str, width: int) -> list[str]:
    return [line for key, inner in content.items() for line in _lines(key, inner, indent, width)]


def _flat(content: dict[str, Any] | list[Any]) -> bool:
    values: Iterable[Any] = content.values() if isinstance(content, dict) else content
    return not any(isinstance(value, dict | list) for value in values)


def _inline(key: str, content: Any) -> str:
    match content:
        case _ if content in (None, {}, []):
            return "none"
        case dict():
            pairs = cast("dict[str, Any]", content).items()
            return ", ".join(f"{_word(name)} {_inline(name, value)}" for name, value in pairs)
        case list():
            return ", ".join(_inline(key, value) for value in cast("list[Any]", content))
        case _ if key.endswith("_bytes"):
            return _size(float(content))
        case _:
            return _scalar(content)


def _scalar(content: Any) -> str:
    if isinstance(content, bool):
        return "yes" if content else "no"
    if isinstance(content, float):
        return f"{content:.4g}" if abs(content) < 1e6 else f"{content:.0f}"
    return str(content)


def _word(key: str) -> str:
    """A key without its unit where the value shows one."""
    return key.removesuffix("_bytes")


def _size(size: float) -> str:
    """A size in the largest unit of which it is at least one."""
    for unit in _UNITS[:-1]:
        if size < 1_000:
            return f"{size:.3g} {unit}"
        size /= 1_000
    return f"{size:.3g} {_UNITS[-1]}"
