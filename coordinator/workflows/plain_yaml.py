"""YAML as plain data, bounded and without surprises.

Of a key that is there twice, YAML keeps the last, so that a rate or a whole stage vanishes: both places are told
instead. No document has a date, so what YAML takes for one is an error at its place. References (``*name``) count as
what they stand for: a few nested ones would be as large as memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from tiermesh import limits
from tiermesh.errors import InvalidDocument, LimitExceeded

_MERGE: Final = "tag:yaml.org,2002:merge"
_TIMESTAMP: Final = "tag:yaml.org,2002:timestamp"


def load(text: str, what: str, *, repeated_keys: bool = False) -> object:
    """The data of a YAML document; `what` it is, for errors. With `repeated_keys` the last of equal keys counts.

    Raises:
        InvalidDocument: it is not YAML, a key is there twice, a value is a date, or a reference leads to itself.
        LimitExceeded: it has more values than `limits.DOCUMENT_VALUES`.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, what, {}, frozenset())
        for path, inner in _walk(node, "$", set()):
            if isinstance(inner, ScalarNode):
                _check_scalar(path, inner, what)
            elif isinstance(inner, MappingNode) and not repeated_keys:
                _check_keys(path, inner, what)
        return loader.construct_document(node)  # pyright: ignore[reportUnknownMemberType]
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        why = " ".join(str(error).split())
        raise InvalidDocument(f"{what} is not YAML", why=why, path="$") from None
    finally:
        loader.dispose()


def _count(node: Node, what: str, known: dict[int, int], above: frozenset[int]) -> int:
    """How many values a node stands for."""
    key = id(node)
    if key in above:
        raise InvalidDocument(f"{what} is wrong: {_place(node)} refers to itself", path="$")
    if key not in known:
        inner = (_count(one, what, known, above | {key}) for one in _children(node))
        known[key] = 1 + sum(inner)
        if known[key] > limits.DOCUMENT_VALUES:
            raise LimitExceeded(
                f"{what} has too many values",
                why=f"its references stand for more than {limits.DOCUMENT_VALUES}",
                limit="DOCUMENT_VALUES",
            )
    return known[key]


def _check_scalar(path: str, node: ScalarNode, what: str) -> None:
    if node.tag == _TIMESTAMP:
        raise InvalidDocument(
            f"{what} is wrong at `{path}`",
            why=f"{node.value} is a date: {_place(node)}",
            fix=f'Write it in quotes where it is a name: "{node.value}"',
            path=path,
        )


def _check_keys(path: str, mapping: MappingNode, what: str) -> None:
    seen: dict[tuple[str, str], Node] = {}
    for key, _ in mapping.value:
        if not isinstance(key, ScalarNode) or key.tag == _MERGE:
            continue
        first = seen.setdefault((key.tag, key.value), key)
        if first is not key:
            raise InvalidDocument(
                f"{what} is wrong at `{path}`",
                why=f"`{key.value}` is there twice: {_place(first)}, and {_place(key)}",
                fix="Remove one of them",
                path=f"{path}.{key.value}",
            )


def _walk(node: Node, path: str, seen: set[int]) -> Iterator[tuple[str, Node]]:
    """Every node once, each with its path."""
    if id(node) in seen:
        return
    seen.add(id(node))
    yield path, node
    if isinstance(node, MappingNode):
        for key, value in node.value:
            name = key.value if isinstance(key, ScalarNode) else "..."
            yield from _walk(key, f"{path}.{name}", seen)
            yield from _walk(value, f"{path}.{name}", seen)
    elif isinstance(node, SequenceNode):
        for number, item in enumerate(node.value):
            yield from _walk(item, f"{path}[{number}]", seen)


def _children(node: Node) -> Iterator[Node]:
    if isinstance(node, MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, SequenceNode):
        yield from node.value


def _place(node: Any) -> str:
    mark = node.start_mark
    return f"line {mark.line + 1}, column {mark.column + 1}"
