"""Errors keep what they are when they cross between processes."""

from __future__ import annotations

import pytest

from agent.errors import StageCodeFailed
from tiermesh import errors
from tiermesh.errors import TiermeshError, error_of

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, TiermeshError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_the_contract_comes_back_as_itself(kind):
    error = kind("what", why="why", fix="fix", device="cam-1")
    again = error_of(error.to_dict())
    assert type(again) is kind
    assert again.to_dict() == error.to_dict()
    assert again.exit_code == error.exit_code


def test_an_error_of_the_other_side_keeps_its_kind():
    error = StageCodeFailed("the stage code fails", why="KeyError: 'glyph'")
    again = error_of(error.to_dict())
    assert type(again) is TiermeshError
    assert again.to_dict() == error.to_dict()
    assert TiermeshError("plain").kind == "error"


def test_an_error_without_fields_still_says_something():
    assert str(error_of({})) == "failed"
