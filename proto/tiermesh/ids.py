"""Names and numbers that identify things: digests, requests, lanes, devices."""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import Any, Final, cast

import msgspec

from tiermesh import limits

DIGEST_PATTERN: Final = r"^sha256:[0-9a-f]{64}$"
DEFAULT_MESH: Final = "default"
"""The mesh of agents and coordinators that name none; several meshes may share a network."""

NAME_PATTERN: Final = rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{limits.NAME_CHARS - 1}}}$"

GOLDEN: Final = 0.6180339887498949
"""Between positions of requests in a row: of all steps the one whose multiples lie most evenly in [0, 1)."""
_POSITION_BITS: Final = 56
_STEP: Final = int(GOLDEN * (1 << _POSITION_BITS)) | 1

_CANONICAL = msgspec.json.Encoder(order="sorted")


def digest_bytes(data: bytes | memoryview) -> str:
    """The content address of `data`, ``sha256:<64 hex digits>``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no white space, so that equal values have equal bytes.

    JSON has one kind of number: 1 and 1.0 are the same value and get the same bytes.
    """
    return _CANONICAL.encode(_normal(msgspec.to_builtins(value, enc_hook=float)))


def _normal(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _normal(inner) for key, inner in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_normal(inner) for inner in cast("list[Any]", value)]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def digest_value(value: object) -> str:
    """The digest of a value's canonical JSON."""
    return digest_bytes(canonical_json(value))


def is_digest(text: str) -> bool:
    """Whether `text` has the form of a digest; nothing is said of its content."""
    return re.fullmatch(DIGEST_PATTERN, text) is not None


def request_id(workflow: str, run: str, index: int) -> str:
    """The id of the `index`-th request of a run: 32 hex digits, the first 14 of which are its position.

    Every source of a workflow gives the same id to the same index, so that inputs of a join that come
    from different sources meet. Positions are a Weyl sequence from a start of each run: any few
    requests in a row fall on lanes as their shares say, which chance would do only in the long run.
    """
    start = hashlib.blake2b(f"{workflow}\0{run}".encode(), digest_size=_POSITION_BITS // 8)
    at = (int.from_bytes(start.digest()) + index * _STEP) % (1 << _POSITION_BITS)
    text = f"{workflow}\0{run}\0{index}".encode()
    rest = hashlib.blake2b(text, digest_size=16 - _POSITION_BITS // 8)
    return f"{at:014x}{rest.hexdigest()}"


def position(request: str) -> float:
    """Where in [0, 1) a request id falls; the lanes of a plan cut this range into shares."""
    return (int(request[:14], 16) >> 3) / float(1 << 53)


def new_device_id() -> str:
    """A fresh random device id, kept in the agent's state folder from then on."""
    return uuid.uuid4().hex[:16]
