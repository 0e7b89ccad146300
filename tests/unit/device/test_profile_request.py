"""A request to measure: numbers from outside that are no numbers are refused."""

import math

import pytest

from agent import config
from agent.profiling.service import _seconds
from tiermesh.errors import InvalidDocument


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
def test_a_time_that_is_no_number_is_refused_with_its_field(value):
    with pytest.raises(InvalidDocument, match="interval") as caught:
        _seconds(value, "interval")
    assert caught.value.fields["path"] == "$.interval"


def test_a_time_is_taken():
    assert _seconds(0.05, "interval") == 0.05


@pytest.mark.parametrize("key", ["price_per_hour", "usable_share", "slowdown"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_setting_that_is_no_number_is_refused_with_its_field(key, value):
    with pytest.raises(InvalidDocument, match=key):
        config.load(None, {"state": "x", key: value}, default_state=str)
