"""Frames as bytes: what travels in one message of a stream (`v1/streaming.proto`).

A 4-byte little-endian length, a protobuf envelope of that length with the frames' headers as MessagePack, then the
tensors' bytes, raw. gRPC carries the whole through identity serializers, so that a large tensor is copied once when
a message is put together, and not at all when it is taken apart. What comes from outside is checked while it is
decoded, in C; only what remains to be said of a header is said here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final

import msgspec
from google.protobuf.message import DecodeError
from msgspec import Meta

from tiermesh import limits
from tiermesh.errors import LimitExceeded, TiermeshError
from tiermesh.frames import EMPTY, OF_NO_REQUEST, Frame, Kind, Packed, Tensor, check_tensor
from tiermesh.v1 import streaming_pb2 as pb

_LENGTH_BYTES: Final = 4
_ID_BYTES: Final = 16
_VIEW_SHARE: Final = 16
_LONGEST_S: Final = 1e9
_MOST: Final = 2**63 - 1

_Count = Annotated[int, Meta(ge=0, le=_MOST)]


class _TensorHeader(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    dtype: Annotated[str, Meta(max_length=8)]
    shape: Annotated[tuple[_Count, ...], Meta(max_length=limits.TENSOR_DIMENSIONS)]
    size: _Count


class _Header(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    kind: Kind
    generation: _Count
    lane: _Count
    request_id: bytes
    attempt: _Count
    origin: str
    stage: str
    sources: Annotated[tuple[str, ...], Meta(max_length=limits.SOURCES_PER_FRAME)]
    accepted_at: float
    remaining: float
    error: str
    payload: bytes
    tensors: Annotated[tuple[_TensorHeader, ...], Meta(max_length=limits.TENSORS_PER_FRAME)]
    series: str
    index: _Count
    settled: _Count
    done: Annotated[tuple[str, ...], Meta(max_length=limits.STAGES)]


_Headers = Annotated[list[_Header], Meta(max_length=limits.FRAMES_PER_MESSAGE)]
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Headers)


def hello(message: pb.Hello) -> bytes:
    """The first message of a stream."""
    return _framed(pb.StreamMessage(hello=message), ())


def encode(first: int, frames: Iterable[Frame], now: float) -> bytes:
    """Frames numbered from `first` on as one message; `now` is by the clock that their deadlines are by."""
    body: list[bytes | memoryview] = []
    headers = [
        (
            frame.kind,
            frame.generation,
            frame.lane,
            bytes.fromhex(frame.request_id),
            frame.attempt,
            frame.origin,
            frame.stage,
            frame.sources,
            frame.accepted_at,
            frame.deadline - now if frame.deadline else 0.0,
            frame.error,
            frame.payload.data,
            _beside(frame.payload, body) if frame.payload.tensors else (),
            frame.series,
            frame.index,
            frame.settled,
            frame.done,
        )
        for frame in frames
    ]
    message = pb.StreamMessage(frames=pb.Frames(first=first, headers=_ENCODER.encode(headers)))
    return _framed(message, body)


def _beside(payload: Packed, body: list[bytes | memoryview]) -> list[tuple[object, ...]]:
    body += [tensor.data for tensor in payload.tensors]
    return [(t.dtype, t.shape, len(t.data)) for t in payload.tensors]


def _framed(message: pb.StreamMessage, body: Sequence[bytes | memoryview]) -> bytes:
    header = message.SerializeToString()
    return b"".join((len(header).to_bytes(_LENGTH_BYTES, "little"), header, *body))


def decode_hello(data: bytes) -> pb.Hello:
    """Read the first message of a stream.

    Raises:
        TiermeshError: it is something else.
    """
    message, _ = _split(data)
    if message.WhichOneof("message") != "hello":
        raise TiermeshError("a stream begins with a hello", why="the first message is another")
    return message.hello


def decode(data: bytes, now: float) -> tuple[int, list[Frame]]:
    """Read a message: the number of its first frame, and its frames. Tensors are views into `data`.

    Raises:
        TiermeshError: it is malformed; LimitExceeded: something in it is too large. The field `first` is the number
            of its first frame, where that much can be read.
    """
    message, body = _split(data)
    if message.WhichOneof("message") != "frames":
        raise TiermeshError("a stream carries frames", why="the message is another")
    try:
        return message.frames.first, _frames(message.frames.headers, body, now)
    except TiermeshError as error:
        error.fields["first"] = message.frames.first
        raise


def _frames(packed: bytes, body: memoryview, now: float) -> list[Frame]:
    try:
        headers = _DECODER.decode(packed)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise TiermeshError("the headers of frames cannot be read", why=str(error)) from None
    cut = _Cut(body)
    frames = [_frame(header, cut, now) for header in headers]
    cut.check_end()
    return frames


def _split(data: bytes) -> tuple[pb.StreamMessage, memoryview]:
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    if end > len(data):
        raise TiermeshError("a message is shorter than its header says")
    try:
        return pb.StreamMessage.FromString(data[_LENGTH_BYTES:end]), memoryview(data)[end:]
    except DecodeError as error:
        raise TiermeshError("a message's header cannot be read", why=str(error)) from None


class _Cut:
    """Hands out the body of a message piece by piece."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._at = 0

    def take(self, size: int) -> memoryview | bytes:
        end = self._at + size
        if end > len(self._body):
            raise TiermeshError("a message is shorter than its tensors")
        piece = self._body[self._at : end]
        self._at = end
        # A view keeps the whole message in memory: a small piece of one is copied instead.
        return piece if size * _VIEW_SHARE >= len(self._body) else bytes(piece)

    def check_end(self) -> None:
        if self._at != len(self._body):
            raise TiermeshError("a message is longer than its tensors")


def _frame(header: _Header, cut: _Cut, now: float) -> Frame:
    identity = header.request_id
    if len(identity) != _ID_BYTES and (identity or header.kind not in OF_NO_REQUEST):
        raise TiermeshError(f"a request id of {len(identity)} bytes")
    if not abs(header.remaining) < _LONGEST_S:
        raise TiermeshError(f"a deadline {header.remaining} seconds from now")
    return Frame(
        header.kind,
        header.generation,
        header.lane,
        identity.hex(),
        header.attempt,
        header.origin,
        header.stage,
        header.sources,
        header.accepted_at,
        now + header.remaining,
        _payload(header, cut),
        header.error,
        header.series,
        header.index,
        header.settled,
        header.done,
    )


def _payload(header: _Header, cut: _Cut) -> Packed:
    if header.tensors:
        packed = Packed(header.payload, tuple([_tensor(one, cut) for one in header.tensors]))
    elif header.payload == EMPTY.data:
        return EMPTY
    else:
        packed = Packed(header.payload)
    if packed.size > limits.FRAME_BYTES:
        raise LimitExceeded(f"a frame of {packed.size} bytes", why=f"limit: {limits.FRAME_BYTES}")
    return packed


def _tensor(header: _TensorHeader, cut: _Cut) -> Tensor:
    check_tensor(header.dtype, header.shape, header.size)
    return Tensor(header.dtype, header.shape, cut.take(header.size))
