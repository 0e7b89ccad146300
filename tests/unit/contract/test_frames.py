"""Payloads: what goes in comes out, whatever is in it and however deep."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiermesh.errors import TiermeshError
from tiermesh.frames import Packed, Tensor, pack

TENSORS = st.binary(max_size=64).map(lambda data: Tensor("|u1", (len(data),), data))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.text(max_size=8)
    | st.binary(max_size=3_000)
    | TENSORS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4))
def test_a_payload_comes_out_as_it_went_in(payload: dict[str, object]) -> None:
    assert pack(payload).unpack() == payload


def test_long_bytes_and_arrays_travel_beside_the_rest_uncopied() -> None:
    image, array = b"x" * 5_000, np.arange(6, dtype=np.float32).reshape(2, 3)
    packed = pack({"image": image, "lines": [array]})
    assert len(packed.data) < 100
    assert packed.tensors[0].data is image
    unpacked = packed.unpack()
    assert unpacked["image"] == image
    np.testing.assert_array_equal(unpacked["lines"][0].numpy(), array)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x81\xa1a\xd4\x01\x09", b"\x90"])
def test_what_is_no_payload_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(TiermeshError, match="payload cannot be read"):
        Packed(data).unpack()
