"""When an error budget burns too fast: both windows, significantly, and not for what a rollout leaves behind."""

from __future__ import annotations

import pytest

from coordinator.replanning.slo import Attained, budget
from tiermesh.v1 import telemetry_pb2 as pb

MONTH_S = 30 * 86_400.0
LENGTHS_S = (10, 60, 600, 3_600)


class Source:
    """A source whose requests end `rate` a second, of which a share misses its limit."""

    def __init__(self, limits_s=None, device="cam-1"):
        self.on = Attained(limits_s or {"p95": 3.0}, MONTH_S)
        self.device = device
        self.ended, self.within = [0], [0]

    @property
    def now(self):
        return float(len(self.ended) - 1)

    def live(self, seconds, rate, missed, *, serves=True, in_flight=0):
        """Whether it burned at any time meanwhile, and when first."""
        first = None
        for _ in range(seconds):
            n = len(self.ended)
            self.ended.append(int(rate * n))
            new = self.ended[-1] - self.ended[-2]
            self.within.append(self.within[-1] + new * (1 - missed))
            said = pb.SourceSample(stage="photos", in_flight=in_flight, windows=self.windows())
            self.on.take(self.device, self.now, said, serves=serves)
            if first is None and self.on.burn() is not None:
                first = self.now
        return first

    def windows(self):
        return [self.window(length) for length in (*LENGTHS_S, 0)]

    def window(self, length):
        then = -1 - length if length and length < len(self.ended) else 0
        ended = self.ended[-1] - self.ended[then]
        within = {name: int(self.within[-1] - self.within[then]) for name in ("p95", "p50")}
        return pb.SloWindow(seconds=length, ended=ended, within=within)


def test_the_budget_is_what_may_miss():
    assert budget("p95") == pytest.approx(0.05)
    assert budget("p50") == pytest.approx(0.5)


def test_misses_within_the_budget_never_burn():
    assert Source().live(1_300, 4.0, 0.05) is None
    assert Source().live(300, 200.0, 0.05) is None


def test_few_requests_never_trigger():
    """Half of one request in five seconds misses: eight misses in 80 s may be one bad moment."""
    assert Source().live(80, 0.2, 0.5) is None


@pytest.mark.parametrize(
    ("rate", "missed", "most_s"), [(4.0, 1.0, 30), (4.0, 0.3, 80), (200, 0.35, 80)]
)
def test_a_budget_that_burns_fast_is_found_soon(rate, missed, most_s):
    source = Source()
    assert source.live(120, rate, 0.0) is None
    assert source.live(200, rate, missed) <= 120 + most_s
    burn = source.on.burn()
    assert burn.percentile == "p95"
    assert burn.rate == pytest.approx(missed / 0.05, rel=0.1)


def test_one_that_burns_slowly_is_found_within_ten_minutes():
    source = Source()
    assert source.live(700, 4.0, 0.0) is None
    assert source.live(700, 4.0, 0.15) is not None


def test_one_that_burns_no_more_is_over_with_the_short_window():
    source = Source()
    source.live(120, 4.0, 0.0)
    assert source.live(60, 4.0, 1.0) is not None
    source.live(11, 4.0, 0.0)
    assert source.on.burn() is None


def test_what_a_rollout_leaves_behind_is_not_held_against_the_plan():
    """Before the commit all misses, and for nine seconds after it while caches are cold."""
    source = Source()
    assert source.live(300, 4.0, 1.0, serves=False) is None
    assert source.live(9, 4.0, 1.0) is None
    assert source.live(1_000, 4.0, 0.0) is None


def test_a_backlog_of_before_is_waited_for_until_as_many_have_ended():
    source = Source()
    source.live(100, 4.0, 1.0, serves=False)
    assert source.live(50, 4.0, 1.0, in_flight=200) is None
    assert source.live(300, 4.0, 0.0) is None


def test_what_never_gets_better_after_a_rollout_is_found():
    source = Source()
    source.live(100, 4.0, 1.0, serves=False)
    assert source.live(120, 4.0, 1.0, in_flight=40) is not None


def test_an_agent_that_starts_again_begins_anew():
    source = Source()
    source.live(200, 4.0, 0.0)
    again = Source()
    again.on = source.on
    assert again.live(9, 4.0, 1.0) is None


def test_errors_are_misses_and_samples_without_windows_tell_nothing():
    source = Source()
    source.on.take("cam-1", 1.0, pb.SourceSample(stage="photos"), serves=True)
    assert source.on.burn() is None


def test_of_a_median_more_may_miss():
    source = Source({"p50": 1.0})
    assert source.live(300, 4.0, 0.5) is None
    assert source.live(300, 4.0, 0.8) is not None


def test_the_windows_of_several_devices_add_up():
    """One camera of two misses all: half of the requests."""
    one, two = Source(), Source(device="cam-2")
    two.on = one.on
    found = None
    for second in range(200):
        one.live(1, 2.0, 1.0 if second > 100 else 0.0)
        found = found or two.live(1, 2.0, 0.0)
    assert found is not None
    burn = one.on.burn()
    assert burn.missed / burn.ended == pytest.approx(0.5, abs=0.02)
