"""Whether a workflow keeps its SLO, from what its sources count: shares, budget, burn rates, accuracy, the verdict."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.telemetry.attainment import (
    FEWEST,
    Announcing,
    Counted,
    ServedAccuracy,
    Word,
    accuracy_of,
    counted,
    judge,
    judge_finally,
    objectives_of,
    wilson,
)
from tiermesh.documents.plan import Cost, Lane, MadeFor, Plan, Predicted, Solver
from tiermesh.documents.workflow import AccuracyAsk, Slo
from tiermesh.units import Duration, Share
from tiermesh.v1 import telemetry_pb2 as pb

SLO = Slo(latency={"p95": Duration.parse("3 s")})
ALL = (60.0, 600.0, 3_600.0, 0.0)


def source(ended, within, *, failed=0, windows=ALL, covered=60.0, **more):
    made = pb.SourceSample(workflow="w", run="r", **more)
    for seconds in windows:
        made.windows.add(
            seconds=seconds,
            ended=ended,
            failed=failed,
            within={"p95": within},
            covered_seconds=covered,
        )
    return made


def verdict(windows, slo=SLO, accuracy=None):
    return judge(objectives_of(slo, windows), accuracy or ServedAccuracy(), windows)


def of(long, short=None, run=None):
    """Windows of (ended, within)."""
    both = {"10min": long, "1min": short or long, "run": run or long}
    return {n: Counted(ended=ended, within={"p95": k}) for n, (ended, k) in both.items()}


def test_windows_of_several_devices_add_up_and_rates_are_over_what_each_covers():
    found = counted([source(100, 90, covered=50.0), source(60, 60, covered=30.0, failed=0)])
    minute = found["1min"]
    assert (minute.ended, minute.within) == (160, {"p95": 150})
    assert minute.per_second["p95"] == pytest.approx(90 / 50 + 60 / 30)
    (objective,) = objectives_of(SLO, found)
    share = objective.windows["10min"]
    assert share.share == pytest.approx(150 / 160)
    assert share.burn_rate == pytest.approx((10 / 160) / 0.05)
    assert objective.budget_left == pytest.approx(1 - (10 / 160) / 0.05)
    assert (objective.target, objective.limit_ms) == (0.95, 3_000.0)


def test_a_window_without_requests_says_nothing():
    (objective,) = objectives_of(SLO, counted([source(0, 0)]))
    assert objective.windows["1h"].burn_rate is None
    assert objective.budget_left is None
    assert verdict(counted([source(0, 0)])).word is Word.NO_DATA
    assert verdict({}).word is Word.NO_DATA


@given(st.integers(1, 3_000), st.data())
def test_an_interval_holds_the_share_that_was_seen(total, data):
    good = data.draw(st.integers(0, total))
    low, high = wilson(good, total)
    assert 0.0 <= low <= good / total + 1e-12
    assert good / total - 1e-12 <= high <= 1.0


def test_the_interval_covers_the_true_share_about_as_often_as_it_says():
    chance, inside, trials = random.Random(3), 0, 2_000
    for _ in range(trials):
        good = sum(chance.random() < 0.95 for _ in range(100))
        low, high = wilson(good, 100)
        inside += low <= 0.95 <= high
    assert 0.92 <= inside / trials <= 0.98


@pytest.mark.parametrize(
    ("windows", "word"),
    [
        (of((1_000, 990)), Word.MET),
        (of((1_000, 900)), Word.MISSED),
        (of((1_000, 948)), Word.AT_RISK),
        (of((1_000, 985), short=(60, 40)), Word.AT_RISK),
        (of((1_000, 990), run=(9_000, 7_000)), Word.AT_RISK),
        (of((FEWEST - 1, 0)), Word.AT_RISK),
        (of((FEWEST, 0)), Word.MISSED),
        (of((5, 5)), Word.MET),
        (of((0, 0), run=(400, 100)), Word.MISSED),
    ],
)
def test_the_verdict_is_missed_only_where_the_counts_are_sure(windows, word):
    assert verdict(windows).word is word


def test_the_verdict_says_on_how_many_requests_it_rests():
    why = verdict(of((12, 12))).why
    assert "100.0% of 12 requests within 3 s in the last 10 minutes (95% asked)" in why
    assert "few requests, 75.8% to 100.0% with 95 % confidence" in why
    assert "confidence" not in verdict(of((5_000, 4_990))).why


def test_without_a_latency_slo_errors_are_what_can_be_said():
    fine = {"run": Counted(ended=9), "10min": Counted(ended=9)}
    bad = {"run": Counted(ended=9, failed=2), "10min": Counted(ended=9, failed=2)}
    assert verdict(fine, Slo()).word is Word.MET
    assert verdict(bad, Slo()).word is Word.AT_RISK
    assert "2 of them in an error" in verdict(bad, Slo()).why


def test_what_has_ended_is_judged_by_its_share_alone():
    objectives = objectives_of(SLO, of((10, 10)))
    for within, word in ((95, Word.MET), (94, Word.MISSED)):
        found = Counted(ended=100, within={"p95": within})
        told, judged = judge_finally(objectives, ServedAccuracy(), found)
        assert told.word is word
        assert judged[0].windows["run"].within == within
    assert judge_finally(objectives, ServedAccuracy(), Counted())[0].word is Word.NO_DATA


def test_counts_since_a_moment_survive_that_they_begin_anew():
    before = Counted(ended=50, failed=2, within={"p95": 40}, seconds=20.0)
    now = Counted(ended=80, failed=3, within={"p95": 70}, seconds=50.0)
    since = now.since(before)
    assert (since.ended, since.failed, since.within, since.seconds) == (30, 1, {"p95": 30}, 30.0)
    assert before.since(now) is before


# --- accuracy ------------------------------------------------------------------------------------------------------


def plan_of(*accuracies):
    return Plan(
        workflow="w",
        made_for=MadeFor(problem="sha256:0"),
        solver=Solver(
            name="hand", status="ok", termination="heuristic", objective=0.0, bound=None, gap=None,
            seconds=0.0,
        ),
        cost=Cost(compute_per_hour=0.0, network_per_hour=0.0, total_per_hour=0.0),
        predicted=Predicted(throughput_rps=1.0, accuracy=0.93),
        replicas=[],
        lanes=[Lane(share=1 / len(accuracies), path={}, accuracy=a) for a in accuracies],
    )  # fmt: skip


FLOOR = Slo(accuracy=AccuracyAsk(at_least=Share.parse("93 %")))


def served(plan, lanes, generation=4):
    sources = [source(1, 1, lanes=lanes, generation=generation)]
    return accuracy_of(plan, FLOOR, sources, 4)


def test_accuracy_served_is_that_of_the_lanes_that_were_taken():
    found = served(plan_of(0.90, 0.98), {0: 30, 1: 10})
    assert found.served == pytest.approx((30 * 0.90 + 10 * 0.98) / 40)
    assert (found.predicted, found.floor) == (0.93, 0.93)
    assert served(plan_of(0.90, 0.98), {0: 30}, generation=3).served is None, "other lanes"
    assert served(plan_of(0.90, None), {0: 30, 1: 1}).served is None, "one is not known"


def test_accuracy_is_below_its_floor_only_when_chance_does_not_explain_it():
    plan = plan_of(0.90, 0.96)
    at_the_floor = {"run": Counted(ended=100, within={"p95": 100})}
    by_chance, surely = served(plan, {0: 55, 1: 45}), served(plan, {0: 700, 1: 300})
    assert by_chance.served is not None
    assert by_chance.served < 0.93
    windows = at_the_floor | of((100, 100))
    assert verdict(windows, accuracy=by_chance).word is Word.MET
    missed = verdict(windows, accuracy=surely)
    assert missed.word is Word.MISSED
    assert "below its floor of 93.00%" in missed.why


# --- news ----------------------------------------------------------------------------------------------------------


def test_a_verdict_is_news_only_after_it_has_held_for_some_requests():
    announcing = Announcing()
    told = [announcing.is_news(Word.MET, ended) for ended in range(0, FEWEST + 1, 5)]
    assert told == [False, False, False, False, True]
    assert not announcing.is_news(Word.MISSED, 100)
    assert not announcing.is_news(Word.MET, 110), "it went back"
    assert not announcing.is_news(Word.MISSED, 111)
    assert not announcing.is_news(Word.AT_RISK, 129)
    assert not announcing.is_news(Word.MISSED, 140)
    assert announcing.is_news(Word.MISSED, 160)
    assert announcing.said is Word.MISSED
    assert not announcing.is_news(Word.NO_DATA, 500)


@pytest.mark.parametrize(("share", "most"), [(0.97, 0.01), (0.99, 0.0)])
def test_a_steady_share_above_the_target_is_rarely_called_missed(share, most):
    """Chance alone makes hardly an event: with budget to spare, in 1 % of runs of a thousand requests at most."""
    runs = 200
    missed = sum(_is_called_missed(random.Random(seed), share) for seed in range(runs))
    assert missed <= most * runs


def _is_called_missed(chance, share):
    announcing, within, said = Announcing(), 0, set()
    for ended in range(1, 1_001):
        within += chance.random() < share
        if announcing.is_news(verdict(of((ended, within))).word, ended):
            said.add(announcing.said)
    return Word.MISSED in said
