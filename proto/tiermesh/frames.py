"""A frame: one message on an edge between two stages, and its form on the wire.

On the wire a frame is a small header (protobuf, `v1/streaming.proto`) followed by its tensors' bytes, raw: gRPC
carries the message through identity serializers, so a large tensor is neither copied nor parsed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from math import prod
from typing import Any, TypeAlias

from tiermesh import limits
from tiermesh.errors import LimitExceeded


class Kind(IntEnum):
    """What a frame is. Only DATA is processed by stages; the others end a request."""

    DATA = 1
    ERROR = 2
    """The request failed at `origin`; travels straight to the sinks."""
    FILTERED = 3
    """A filter ended the request; travels straight to the sinks."""
    CONFIRM = 4
    """From a sink back to the source: the request has ended there."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Raw values with dtype (NumPy's short form, ``<f4``) and shape; NumPy is not needed to pass one on."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview | bytes

    def numpy(self) -> Any:
        """The same memory as a read-only NumPy array."""
        import numpy as np

        return np.frombuffer(self.data, dtype=self.dtype).reshape(self.shape)


Value: TypeAlias = "Tensor | bytes | str | int | float | bool | None | list[Any] | dict[str, Any]"
Payload: TypeAlias = Mapping[str, Any]
"""What stages exchange: named values. Tensors and bytes at any depth of lists and dicts; NumPy arrays count as tensors."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message to stage `stage` from stage `origin`, for one request.

    `lane` is an index into the lanes of the plan of `generation`. `accepted_at` and `deadline` are Unix seconds.
    """

    kind: Kind
    workflow: str
    generation: int
    lane: int
    request_id: str
    attempt: int
    origin: str
    stage: str
    accepted_at: float
    deadline: float
    payload: Payload = field(default_factory=dict)
    error: str = ""


def tensor_of(array: Any) -> Tensor:
    """A NumPy array, or anything with `__array_interface__`, as a Tensor over the same memory."""
    import numpy as np

    packed = np.ascontiguousarray(array)
    return Tensor(packed.dtype.str, packed.shape, memoryview(packed).cast("B"))


def check_tensor(dtype: str, shape: Sequence[int], size: int) -> None:
    """Refuse a tensor from outside whose shape and bytes do not agree."""
    if len(shape) > limits.TENSOR_DIMENSIONS:
        raise LimitExceeded(
            f"a tensor has {len(shape)} dimensions", why=f"the limit is {limits.TENSOR_DIMENSIONS}"
        )
    item = int(dtype[2:]) if len(dtype) > 2 and dtype[2:].isdigit() else 0
    if dtype[:1] not in "<>|=" or dtype[1:2] not in "biufc" or item not in (1, 2, 4, 8, 16):
        raise LimitExceeded(f"a tensor has the element type {dtype!r}", why="it is not a number's")
    if min(shape, default=0) < 0 or prod(shape) * item != size:
        raise LimitExceeded(
            f"a tensor of shape {tuple(shape)} and type {dtype!r} came with {size} bytes"
        )
