"""Messages of `v1/evaluation.proto` on a pipe, and payloads in them.

On a pipe each message follows its length (4 bytes, little-endian). It is as large as a message of gRPC may be, at
most, so that whatever passes here passes there as well.
"""

from __future__ import annotations

from typing import IO, Final, TypeVar

from google.protobuf.message import DecodeError, Message

from tiermesh import limits
from tiermesh.errors import LimitExceeded, TiermeshError
from tiermesh.frames import Packed, Payload, Tensor, check_tensor, pack
from tiermesh.v1 import evaluation_pb2 as pb

_LENGTH_BYTES: Final = 4

M = TypeVar("M", bound=Message)


def write(pipe: IO[bytes], message: Message) -> None:
    """Write one message and flush.

    Raises:
        LimitExceeded: it is larger than `limits.GRPC_MESSAGE_BYTES`; nothing is written.
        OSError: nobody reads.
    """
    data = message.SerializeToString()
    _check_size(len(data))
    pipe.write(len(data).to_bytes(_LENGTH_BYTES, "little"))
    pipe.write(data)
    pipe.flush()


def read(pipe: IO[bytes], kind: type[M]) -> M | None:
    """The next message; None where the pipe ends, in the midst of one as well.

    Raises:
        LimitExceeded: it is said to be larger than `limits.GRPC_MESSAGE_BYTES`.
        TiermeshError: it is no such message.
    """
    header = pipe.read(_LENGTH_BYTES)
    if len(header) < _LENGTH_BYTES:
        return None
    size = int.from_bytes(header, "little")
    _check_size(size)
    data = pipe.read(size)
    if len(data) < size:
        return None
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise TiermeshError("a message of the model host cannot be read", why=str(error)) from None


def message_of(payload: Payload) -> pb.EvaluatePayload:
    """A payload as a message.

    Raises:
        TiermeshError: it holds what frames do not carry, or is larger than `limits.FRAME_BYTES`.
    """
    packed = pack(payload)
    tensors = [
        pb.EvaluateTensor(dtype=t.dtype, shape=t.shape, data=bytes(t.data)) for t in packed.tensors
    ]
    return pb.EvaluatePayload(data=packed.data, tensors=tensors)


def payload_of(message: pb.EvaluatePayload) -> dict[str, object]:
    """The payload of a message, with a `Tensor` for each tensor.

    Raises:
        TiermeshError: it is malformed; LimitExceeded: something in it is too large.
    """
    if len(message.tensors) > limits.TENSORS_PER_FRAME:
        raise LimitExceeded(
            f"a payload has {len(message.tensors)} tensors",
            why=f"the limit is {limits.TENSORS_PER_FRAME}",
        )
    packed = Packed(message.data, tuple(_tensor(one) for one in message.tensors))
    if packed.size > limits.FRAME_BYTES:
        raise LimitExceeded(
            f"a payload is {packed.size} bytes long", why=f"the limit is {limits.FRAME_BYTES} bytes"
        )
    return packed.unpack()


def _tensor(message: pb.EvaluateTensor) -> Tensor:
    check_tensor(message.dtype, message.shape, len(message.data))
    return Tensor(message.dtype, tuple(message.shape), message.data)


def _check_size(size: int) -> None:
    if size > limits.GRPC_MESSAGE_BYTES:
        raise LimitExceeded(
            f"a message of the model host is {size} bytes long",
            why=f"the limit is {limits.GRPC_MESSAGE_BYTES} bytes",
            limit="GRPC_MESSAGE_BYTES",
        )
