"""An aggregate's state as it is kept on disk, and as it goes over to another device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from tiermesh.errors import TiermeshError
from tiermesh.frames import Packed, Tensor

_Flat: TypeAlias = tuple[bytes, list[tuple[str, tuple[int, ...], bytes]]]


@dataclass(slots=True)
class AggregateSnapshot:
    """All that an aggregate knows, or what has changed of it.

    `states` by key, as the stage code says them; `outputs` by series and number; `positions` are the numbers that come
    next, by series; below the number in `settled` nothing is sent again.
    """

    states: dict[str, Packed] = field(default_factory=dict[str, Packed])
    outputs: dict[tuple[str, int], Packed] = field(default_factory=dict[tuple[str, int], Packed])
    positions: dict[str, int] = field(default_factory=dict[str, int])
    settled: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class Given:
    """A state is another device's, which takes frames at `address`, since a generation; `token` names the copy."""

    token: str
    device: str
    address: str
    generation: int


@dataclass(frozen=True, slots=True)
class HeldAggregate:
    """What of an aggregate is on a device.

    `since` is the generation in which the state began here or was taken over; 0 for none. It is `kept` on disk or only
    in memory. With a `pending` token it is a copy, and the device that gave it has not yet let go of its own.
    """

    since: int = 0
    pending: str = ""
    given: Given | None = None
    kept: bool = True
    positions: Mapping[str, int] = field(default_factory=dict[str, int])


class _Whole(msgspec.Struct, array_like=True):
    states: list[tuple[str, bytes]]
    outputs: list[tuple[str, int, bytes]]
    positions: dict[str, int]
    settled: dict[str, int]


_WHOLE = msgspec.msgpack.Decoder(_Whole)
_FLAT: msgspec.msgpack.Decoder[_Flat] = msgspec.msgpack.Decoder(_Flat)


def encode(snapshot: AggregateSnapshot) -> bytes:
    """A snapshot as MessagePack."""
    return msgspec.msgpack.encode(
        _Whole(
            [(key, flat(state)) for key, state in snapshot.states.items()],
            [(*place, flat(output)) for place, output in snapshot.outputs.items()],
            snapshot.positions,
            snapshot.settled,
        )
    )


def decode(data: bytes) -> AggregateSnapshot:
    """The snapshot that `encode` wrote.

    Raises:
        TiermeshError: it came from outside and is none.
    """
    try:
        whole = _WHOLE.decode(data)
        return AggregateSnapshot(
            {key: unflat(state) for key, state in whole.states},
            {(series, number): unflat(output) for series, number, output in whole.outputs},
            whole.positions,
            whole.settled,
        )
    except (msgspec.MsgspecError, RecursionError) as error:
        raise TiermeshError("the state of an aggregate cannot be read", why=str(error)) from None


def flat(payload: Packed) -> bytes:
    """A payload in one piece."""
    tensors = [(t.dtype, t.shape, bytes(t.data)) for t in payload.tensors]
    return msgspec.msgpack.encode((payload.data, tensors))


def unflat(data: bytes) -> Packed:
    """The payload that `flat` wrote."""
    whole, tensors = _FLAT.decode(data)
    return Packed(whole, tuple(Tensor(*tensor) for tensor in tensors))
