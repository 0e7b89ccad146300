"""Bytes to a typed document, or one error that names the field, what was found and what is allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from tiermesh import limits, units
from tiermesh.errors import InvalidDocument, LimitExceeded

T = TypeVar("T")

_AT = re.compile(r"^(?P<text>.*?)(?: - at (?:`key` in )?`(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<field>[^`]*)`")


class Document(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Base of every struct in a document: immutable, and an unknown key is an error.

    Subclasses say `frozen=True, kw_only=True` again, for type checkers and because msgspec does not inherit the second.
    """


def convert(value: object, to: type[T], what: str, at: str = "$") -> T:
    """Turn plain data (from JSON or YAML) into `to`.

    Raises:
        InvalidDocument: with `path`, the place of the field that is wrong.
    """
    try:
        return msgspec.convert(value, to, dec_hook=_decode_quantity, str_keys=True)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), to, what, at) from None


def decode_json(data: bytes | str, to: type[T], what: str) -> T:
    """Read a JSON document; InvalidDocument says where it is wrong, LimitExceeded that it is too large."""
    if len(data) > limits.DOCUMENT_BYTES:
        raise LimitExceeded(
            f"{what} is {len(data)} bytes long",
            why=f"the limit is {limits.DOCUMENT_BYTES} bytes",
            limit="DOCUMENT_BYTES",
        )
    try:
        return msgspec.json.decode(data, type=to, dec_hook=_decode_quantity)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), to, what, "$") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidDocument(f"{what} is not JSON", why=str(error), path="$") from None


def encode_json(document: object) -> bytes:
    """A document as indented JSON with a final newline, quantities as numbers of their base unit."""
    return msgspec.json.format(msgspec.json.encode(document, enc_hook=float), indent=1) + b"\n"


def to_plain(document: object) -> Any:
    """A document as dicts, lists, strings and numbers."""
    return msgspec.to_builtins(document, enc_hook=float)


def schema_of(document: type, title: str) -> dict[str, Any]:
    """The published JSON Schema of a document."""
    schema = msgspec.json.schema(document, schema_hook=quantity_schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}


def close_match(found: Iterable[str], allowed: Iterable[str]) -> str:
    """``Did you mean `WORD`? `` for the first word that is nearly an allowed one; empty for none."""
    known = list(allowed)
    for word in found:
        for match in difflib.get_close_matches(word, known, n=1):
            return f"Did you mean `{match}`? "
    return ""


def _decode_quantity(to: type[Any], value: object) -> object:
    if issubclass(to, units.Quantity):
        return to.parse(value)
    raise NotImplementedError(to.__name__)


def quantity_schema(of: type[Any]) -> dict[str, Any]:
    """How a quantity looks in a JSON Schema: a string with a unit."""
    if issubclass(of, units.Quantity):
        return {"type": "string", "pattern": of.pattern, "examples": [of.example]}
    raise NotImplementedError(of.__name__)


def _invalid(message: str, to: type, what: str, at: str) -> InvalidDocument:
    match = _AT.match(message)
    text, inner = (match["text"], match["path"] or "$") if match else (message, "$")
    path = at + inner.removeprefix("$")
    unknown = _UNKNOWN.search(text)
    if unknown is None:
        choices = _choices_at(to, inner) if "enum" in text else []
        fix = f"Allowed: {', '.join(choices)}" if choices else ""
        return InvalidDocument(f"{what} is wrong at `{path}`", why=text, fix=fix, path=path)
    allowed = _fields_at(to, inner)
    return InvalidDocument(
        f"{what} is wrong at `{path}`",
        why=f"there is no field `{unknown['field']}` here",
        fix=close_match([unknown["field"]], allowed) + f"Allowed: {', '.join(allowed)}",
        path=path,
        found=unknown["field"],
        allowed=allowed,
    )


def _fields_at(to: type, path: str) -> list[str]:
    """The field names of the struct that a `$.a[0].b` path leads to; empty where it cannot be told."""
    node = _struct_in(_node_at(to, path))
    return [field.encode_name for field in node.fields] if node is not None else []


def _choices_at(to: type, path: str) -> list[str]:
    """The values that are allowed where a path leads; empty where it cannot be told."""
    node = _node_at(to, path)
    options = getattr(node, "types", (node,))
    return [
        str(value)
        for option in options
        if isinstance(option, msgspec.inspect.LiteralType)
        for value in option.values
    ]


def _node_at(to: type, path: str) -> Any:
    node: Any = msgspec.inspect.type_info(to)
    for step in re.findall(r"\.([A-Za-z0-9_]+)|\[(\.\.\.|\d+)\]", path):
        node = _step(node, step[0])
        if node is None:
            return None
    return node


def _step(node: Any, name: str) -> Any:
    struct = _struct_in(node)
    if struct is not None and name:
        return next((f.type for f in struct.fields if f.encode_name == name), None)
    for option in getattr(node, "types", (node,)):
        inner = getattr(option, "item_type", None) or getattr(option, "value_type", None)
        if inner is not None:
            return inner
    return None


def _struct_in(node: Any) -> Any:
    options = getattr(node, "types", (node,))
    return next((o for o in options if isinstance(o, msgspec.inspect.StructType)), None)
