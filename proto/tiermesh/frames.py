"""A frame: one message on an edge between two stages, for one request, with its payload packed.

A payload is packed once, by the stage that makes it, and unpacked by the stage that works on it: what lies between,
in memory or on the wire (`tiermesh.codec`), neither copies nor reads its tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from math import prod
from typing import Any, Final, TypeAlias

import msgspec

from tiermesh import limits
from tiermesh.errors import LimitExceeded, TiermeshError


class Kind(IntEnum):
    """What a frame is. Only DATA is worked on by stages."""

    DATA = 1
    ERROR = 2
    """The request failed at `origin`. Goes past the stages to the sinks; a join on the way takes note."""
    FILTERED = 3
    """A filter ended the request. Goes the same way; a union waits for its other inputs first."""
    CONFIRM = 4
    """From a sink back to the sources: the request has ended there."""
    ASK = 6
    """From a source to the device where a sink was in an earlier generation: has the request ended there?"""
    CLEAR = 7
    """The answer: it has not, and will not. CONFIRM is the other one."""
    LOST = 5
    """Back to the sources: `origin` (a device) cannot take the request on, or, without a request id, has lost all
    that it had in its care. The sources inject it again."""
    TAKE = 8
    """From the device where an aggregate is now to the one where it was: give its state up. Of no request."""
    STATE = 9
    """The answer: a part of the state, or where it is."""
    DROP = 10
    """From a source to the device where a sink was: the request has ended elsewhere, so it does not count there."""
    DROPPED = 11
    """The answer: it does not count any more."""


class Tensor:
    """Raw values with dtype (NumPy's short form, ``<f4``) and shape; NumPy is not needed to pass one on.

    Not a dataclass, because msgspec writes those as objects before it asks what to do with them.
    """

    __slots__ = ("data", "dtype", "shape")

    def __init__(self, dtype: str, shape: tuple[int, ...], data: memoryview | bytes) -> None:
        self.dtype = dtype
        self.shape = shape
        self.data = data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tensor) and (self.dtype, self.shape, bytes(self.data)) == (
            other.dtype,
            other.shape,
            bytes(other.data),
        )

    def __hash__(self) -> int:
        return hash((self.dtype, self.shape, bytes(self.data)))

    def __repr__(self) -> str:
        return f"Tensor({self.dtype!r}, {self.shape}, {len(self.data)} bytes)"

    def numpy(self) -> Any:
        """The same memory as a read-only NumPy array."""
        import numpy as np

        return np.frombuffer(self.data, dtype=self.dtype).reshape(self.shape)


Payload: TypeAlias = Mapping[str, Any]
"""What stages exchange: named values. A value is a Tensor or NumPy array, bytes, str, int, float, bool, None, or a list
or dict of values."""

_TENSOR_CODE: Final = 1
_INDEX_BYTES: Final = 4
_APART_BYTES: Final = 4_096
"""Bytes values of a payload that are at least this long travel beside it, as tensors do, and are not copied. Copying
shorter ones costs less than keeping them apart."""


class Packed:
    """A payload as MessagePack, with its tensors beside it. `size` in bytes counts both.

    Not changed once made. Not a struct, so that the size, which each queue on the way asks for, is counted once.
    """

    __slots__ = ("data", "size", "tensors")

    def __init__(self, data: bytes, tensors: tuple[Tensor, ...] = ()) -> None:
        self.data = data
        self.tensors = tensors
        size = len(data)
        for tensor in tensors:
            size += len(tensor.data)
        self.size = size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Packed) and (self.data, self.tensors) == (
            other.data,
            other.tensors,
        )

    def __hash__(self) -> int:
        return hash((self.data, self.tensors))

    def __repr__(self) -> str:
        return f"Packed({self.size} bytes, {len(self.tensors)} tensors)"

    def unpack(self) -> dict[str, Any]:
        """The payload, with a Tensor for each tensor.

        Raises:
            TiermeshError: it came from outside and is not a payload.
        """

        def restore(code: int, index: memoryview) -> Any:
            tensor = self.tensors[int.from_bytes(index, "little")] if code == _TENSOR_CODE else None
            if tensor is None:
                raise ValueError(f"an extension of type {code}")
            return tensor if tensor.dtype else bytes(tensor.data)

        try:
            return msgspec.msgpack.decode(self.data, type=dict[str, Any], ext_hook=restore)
        except (msgspec.DecodeError, IndexError, ValueError, RecursionError) as error:
            raise TiermeshError("a frame's payload cannot be read", why=str(error)) from None


EMPTY: Final = Packed(msgspec.msgpack.encode({}))


def pack(payload: Payload) -> Packed:
    """Pack what a stage made; NumPy arrays and long bytes stay where they are in memory.

    Raises:
        TiermeshError: it is not a mapping, holds something that frames do not carry, or is too large.
    """
    tensors: list[Tensor] = []

    def place(tensor: Tensor) -> msgspec.msgpack.Ext:
        tensors.append(tensor)
        return msgspec.msgpack.Ext(
            _TENSOR_CODE, (len(tensors) - 1).to_bytes(_INDEX_BYTES, "little")
        )

    def replace(value: Any) -> Any:
        if isinstance(value, Tensor):
            return place(value)
        if hasattr(value, "__array_interface__"):
            return place(tensor_of(value)) if getattr(value, "ndim", 0) else value.item()
        raise TypeError(f"frames do not carry a {type(value).__name__}")

    try:
        apart = {name: _apart(value) for name, value in payload.items()}
        packed = Packed(msgspec.msgpack.encode(apart, enc_hook=replace), tuple(tensors))
    except (TypeError, ValueError, OverflowError, RecursionError, AttributeError) as error:
        raise TiermeshError("a payload cannot be packed", why=str(error)) from None
    if packed.size > limits.FRAME_BYTES:
        raise LimitExceeded(
            f"a payload is {packed.size} bytes long", why=f"the limit is {limits.FRAME_BYTES} bytes"
        )
    return packed


def _apart(value: Any) -> Any:
    """Bytes that are long enough as a tensor of no type, which is not copied."""
    is_long = isinstance(value, bytes) and len(value) >= _APART_BYTES
    return Tensor("", (), value) if is_long else value


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One message to stage `stage` from stage `origin`, for one request.

    `lane` is an index into the lanes of the plan of `generation`. `sources` are the devices whose sources hold the
    request. `accepted_at` is Unix seconds by the source's clock; `deadline` is by the clock of the device that the
    frame is on. It is request number `index` of its source, which is named by `series`; below `settled`, all of that
    source have ended. `done` are the sinks that have confirmed the request already.
    """

    kind: Kind
    generation: int
    lane: int
    request_id: str
    attempt: int
    origin: str
    stage: str
    sources: tuple[str, ...] = ()
    accepted_at: float = 0.0
    deadline: float = 0.0
    payload: Packed = EMPTY
    error: str = ""
    series: str = ""
    index: int = 0
    settled: int = 0
    done: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """What it counts for in windows and limits: bytes of payload and header, about."""
        return _HEADER_BYTES + self.payload.size


OF_NO_REQUEST: Final = frozenset({Kind.LOST, Kind.TAKE, Kind.STATE})
"""Kinds that may speak of a device instead of a request."""

_HEADER_BYTES: Final = 128


def tensor_of(array: Any) -> Tensor:
    """A NumPy array, or anything with `__array_interface__`, as a Tensor over the same memory."""
    import numpy as np

    packed = np.ascontiguousarray(array)
    if packed.dtype.kind not in "biufc":
        raise TypeError(f"frames do not carry arrays of {packed.dtype}")
    data = packed.reshape(-1).view(np.uint8).data if packed.size else b""
    return Tensor(packed.dtype.str, packed.shape, data)


def check_tensor(dtype: str, shape: Sequence[int], size: int) -> None:
    """Refuse a tensor from outside whose shape and bytes do not agree."""
    if not dtype and not shape:
        return
    if len(shape) > limits.TENSOR_DIMENSIONS:
        raise LimitExceeded(
            f"a tensor has {len(shape)} dimensions", why=f"the limit is {limits.TENSOR_DIMENSIONS}"
        )
    item = int(dtype[2:]) if len(dtype) > 2 and dtype[2:].isdecimal() else 0
    if (
        dtype[:1] not in "<>|="
        or dtype[1:2] not in _ITEM_BYTES
        or item not in _ITEM_BYTES[dtype[1]]
    ):
        raise LimitExceeded(f"a tensor has the element type {dtype!r}", why="it is not a number's")
    if min(shape, default=0) < 0 or prod(shape) * item != size:
        raise LimitExceeded(
            f"a tensor of shape {tuple(shape)} and type {dtype!r} came with {size} bytes"
        )


_ITEM_BYTES: Final = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}
