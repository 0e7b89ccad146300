"""Frames as bytes: what travels in one message of a stream (`v1/streaming.proto`).

A 4-byte little-endian length, a protobuf header of that length, then the tensors' bytes, raw. gRPC carries the whole
through identity serializers, so that a large tensor is copied once when a message is put together, and not at all
when it is taken apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from tiermesh import limits
from tiermesh.errors import LimitExceeded, TiermeshError
from tiermesh.frames import Frame, Kind, Packed, Tensor, check_tensor
from tiermesh.v1 import streaming_pb2 as pb

_LENGTH_BYTES: Final = 4
_ID_BYTES: Final = 16
_VIEW_SHARE: Final = 8
_LONGEST_S: Final = 1e9
_KINDS: Final = {int(kind): kind for kind in Kind}


def hello(message: pb.Hello) -> bytes:
    """The first message of a stream."""
    return _framed(pb.StreamMessage(hello=message), ())


def encode(first: int, frames: Iterable[Frame], now: float) -> bytes:
    """Frames numbered from `first` on as one message; `now` is by the clock that their deadlines are by."""
    message = pb.StreamMessage()
    message.frames.first = first
    add = message.frames.frames.add
    body: list[bytes | memoryview] = []
    for frame in frames:
        header = add(
            kind=frame.kind,
            generation=frame.generation,
            lane=frame.lane,
            request_id=bytes.fromhex(frame.request_id),
            attempt=frame.attempt,
            origin=frame.origin,
            stage=frame.stage,
            sources=frame.sources,
            accepted_at=frame.accepted_at,
            remaining=frame.deadline - now if frame.deadline else 0.0,
            error=frame.error,
            payload=frame.payload.data,
        )
        for tensor in frame.payload.tensors:
            header.tensors.add(dtype=tensor.dtype, shape=tensor.shape, size=len(tensor.data))
            body.append(tensor.data)
    return _framed(message, body)


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
        TiermeshError: it is malformed; LimitExceeded: something in it is too large.
    """
    message, body = _split(data)
    if message.WhichOneof("message") != "frames":
        raise TiermeshError("a stream carries frames", why="the message is another")
    headers = message.frames.frames
    if len(headers) > limits.FRAMES_PER_MESSAGE:
        raise LimitExceeded(
            f"{len(headers)} frames in a message", why=f"the limit is {limits.FRAMES_PER_MESSAGE}"
        )
    cut = _Cut(body)
    frames = [_frame(header, cut, now) for header in headers]
    cut.check_end()
    return message.frames.first, frames


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


def _frame(header: pb.FrameHeader, cut: _Cut, now: float) -> Frame:
    kind = _KINDS.get(header.kind)
    if kind is None:
        raise TiermeshError(f"a frame of the unknown kind {header.kind}")
    identity = header.request_id
    if len(identity) != _ID_BYTES and (identity or kind is not Kind.LOST):
        raise TiermeshError(f"a request id of {len(identity)} bytes")
    if not abs(header.remaining) < _LONGEST_S:
        raise TiermeshError(f"a deadline {header.remaining} seconds from now")
    packed = Packed(header.payload, tuple(_tensors(header, cut)) if header.tensors else ())
    if packed.size > limits.FRAME_BYTES:
        raise LimitExceeded(f"a frame of {packed.size} bytes", why=f"limit: {limits.FRAME_BYTES}")
    return Frame(
        kind,
        header.generation,
        header.lane,
        identity.hex(),
        header.attempt,
        header.origin,
        header.stage,
        tuple(header.sources),
        header.accepted_at,
        now + header.remaining,
        packed,
        header.error,
    )


def _tensors(header: pb.FrameHeader, cut: _Cut) -> Iterator[Tensor]:
    for tensor in header.tensors:
        shape = tuple(tensor.shape)
        check_tensor(tensor.dtype, shape, tensor.size)
        yield Tensor(tensor.dtype, shape, cut.take(tensor.size))
