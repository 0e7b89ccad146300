"""Frames on the wire: what goes in comes out, and what is malformed is refused in words."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiermesh import codec, limits
from tiermesh.errors import LimitExceeded, TiermeshError
from tiermesh.frames import Frame, Kind, Packed, Tensor, pack
from tiermesh.v1 import streaming_pb2 as pb

ID = "0123456789abcdef" * 2

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=3_000),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
frames = st.builds(
    Frame,
    kind=st.sampled_from([Kind.DATA, Kind.ERROR, Kind.FILTERED]),
    generation=st.integers(1, 2**40),
    lane=st.integers(0, limits.LANES),
    request_id=st.binary(min_size=16, max_size=16).map(bytes.hex),
    attempt=st.integers(1, 16),
    origin=st.text(max_size=10),
    stage=st.text(max_size=10),
    sources=st.lists(st.text(max_size=8), max_size=3).map(tuple),
    accepted_at=st.floats(0, 2e9),
    deadline=st.just(1_000.0),
    payload=st.dictionaries(st.text(max_size=8), values, max_size=4).map(pack),
    error=st.text(max_size=30),
    series=st.text(max_size=8),
    index=st.integers(0, 2**40),
    settled=st.integers(0, 2**40),
    done=st.lists(st.text(max_size=5), max_size=2).map(tuple),
)


def a_frame(payload: Packed) -> Frame:
    return Frame(Kind.DATA, 1, 0, ID, 1, "a", "b", ("d",), 1.0, 50.0, payload)


@given(st.lists(frames, max_size=5), st.integers(1, 2**60))
def test_a_message_comes_out_as_it_went_in(sent: list[Frame], first: int) -> None:
    number, received = codec.decode(codec.encode(first, sent, now=900.0), now=900.0)
    assert number == first
    for before, after in zip(sent, received, strict=True):
        assert after.payload.unpack() == before.payload.unpack()
        assert _but_payload(after) == _but_payload(before)


def _but_payload(frame: Frame) -> tuple[Any, ...]:
    return (
        frame.kind, frame.generation, frame.lane, frame.request_id, frame.attempt, frame.origin,
        frame.stage, frame.sources, frame.accepted_at, round(frame.deadline, 6), frame.error,
        frame.series, frame.index, frame.settled, frame.done,
    )  # fmt: skip


def test_tensors_keep_type_shape_and_values() -> None:
    arrays = {
        "f": np.arange(12, dtype="<f4").reshape(3, 4)[:, ::2],
        "i": np.zeros((0, 5), dtype=np.int8),
        "deep": [{"b": np.array([True, False])}],
    }
    _, (frame,) = codec.decode(codec.encode(1, [a_frame(pack(arrays))], 0.0), 0.0)
    out = frame.payload.unpack()
    assert np.array_equal(out["f"].numpy(), arrays["f"])
    assert out["i"].numpy().shape == (0, 5)
    assert out["deep"][0]["b"].numpy().tolist() == [True, False]
    with pytest.raises(ValueError, match="read-only"):
        out["f"].numpy()[0, 0] = 1


def test_numbers_that_json_does_not_know_survive() -> None:
    out = pack({"nan": math.nan, "inf": math.inf, "scalar": np.float32(1.5)}).unpack()
    assert math.isnan(out["nan"])
    assert out["inf"] == math.inf
    assert out["scalar"] == 1.5


def test_a_large_tensor_is_not_copied_when_a_message_is_taken_apart() -> None:
    message = codec.encode(1, [a_frame(pack({"image": b"x" * 500_000}))], 0.0)
    _, (frame,) = codec.decode(message, 0.0)
    (tensor,) = frame.payload.tensors
    assert isinstance(tensor.data, memoryview)
    assert tensor.data.obj is message


@pytest.mark.parametrize(("count", "kind"), [(16, memoryview), (17, bytes)])
def test_a_tensor_keeps_a_message_in_memory_only_where_it_is_much_of_it(
    count: int, kind: type
) -> None:
    sent = [a_frame(pack({"image": b"x" * 150_000}))] * count
    _, received = codec.decode(codec.encode(1, sent, 0.0), 0.0)
    assert {type(frame.payload.tensors[0].data) for frame in received} == {kind}


def test_a_deadline_holds_between_devices_whose_clocks_differ() -> None:
    message = codec.encode(1, [a_frame(pack({}))], now=20.0)
    _, (frame,) = codec.decode(message, now=7_000.0)
    assert frame.deadline == 7_030.0


@pytest.mark.parametrize("value", [object(), 1j, 2**70, np.array(["text"])])
def test_what_frames_do_not_carry_is_refused(value: object) -> None:
    with pytest.raises(TiermeshError, match="cannot be packed"):
        pack({"value": value})


def test_a_payload_has_a_limit() -> None:
    with pytest.raises(LimitExceeded):
        pack({"image": b"x" * (limits.FRAME_BYTES + 1)})


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    for read in (lambda: codec.decode(data, 0.0), lambda: codec.decode_hello(data)):
        try:
            read()
        except TiermeshError:
            continue


@given(frames, st.data())
def test_a_message_that_was_cut_or_stretched_is_refused(frame: Frame, data: st.DataObject) -> None:
    whole = codec.encode(1, [frame], 0.0)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for wrong in (whole[:cut], whole + b"x"):
        with pytest.raises(TiermeshError):
            codec.decode(wrong, 0.0)


def header(**fields: Any) -> list[Any]:
    """A frame's header as it travels, with some fields replaced."""
    plain: dict[str, Any] = {
        "kind": 1, "generation": 1, "lane": 0, "request_id": bytes(16), "attempt": 1, "origin": "a",
        "stage": "b", "sources": ["d"], "accepted_at": 1.0, "remaining": 9.0, "error": "",
        "payload": b"\x80", "tensors": [], "series": "s", "index": 3, "settled": 2, "done": [],
    }  # fmt: skip
    return list({**plain, **fields}.values())


def message_of(headers: Any) -> bytes:
    packed = msgspec.msgpack.encode(headers)
    message = pb.StreamMessage(frames=pb.Frames(first=1, headers=packed)).SerializeToString()
    return len(message).to_bytes(4, "little") + message


def test_the_headers_of_these_tests_are_what_is_sent() -> None:
    _, (frame,) = codec.decode(message_of([header()]), 0.0)
    assert frame.stage == "b"


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": 99},
        {"kind": "1"},
        {"generation": -1},
        {"lane": 2**64 - 1},
        {"request_id": bytes(5)},
        {"request_id": b""},
        {"request_id": "0" * 16},
        {"remaining": math.nan},
        {"remaining": math.inf},
        {"sources": ["d"] * (limits.SOURCES_PER_FRAME + 1)},
        {"tensors": [["<f4", [3], 0]]},
        {"tensors": [["|O8", [0], 0]]},
        {"tensors": [["", [], 0]] * (limits.TENSORS_PER_FRAME + 1)},
        {"tensors": [["<f4", [-1], 0]]},
        {"one": "more"},
    ],
)
def test_a_header_from_outside_is_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(TiermeshError):
        codec.decode(message_of([header(**wrong)]), 0.0)


def test_too_many_frames_are_refused_before_they_are_made() -> None:
    with pytest.raises(TiermeshError, match="length"):
        codec.decode(message_of([header()] * (limits.FRAMES_PER_MESSAGE + 1)), 0.0)


def test_a_payload_from_outside_that_is_none_is_one_requests_error() -> None:
    for data in (b"", b"\xc1", b"\x01", Packed(b"\x81\xa1a\xd6\x01\x09\x00\x00\x00").data):
        with pytest.raises(TiermeshError, match="payload"):
            Packed(data, (Tensor("", (), b"x"),)).unpack()
