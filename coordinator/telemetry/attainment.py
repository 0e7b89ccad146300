"""Whether a workflow keeps its SLO: shares within it, error budget, burn rates, accuracy, cost, verdict. Pure.

A promise "p95 within 3 s" is read as: at least 95 % of the requests end, without an error, within 3 s of when they
were due. Its error budget is the other 5 %; the burn rate of a window is the share that missed it, over the budget: at
1 the budget is used up exactly at the end, at 10 ten times as fast (B. Beyer et al., "The Site Reliability Workbook",
2018, chapter 5). Sources count; windows of all devices of a workflow add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from math import sqrt
from typing import Final

import msgspec

from coordinator.fleet.spending import price_per_hour, spent_usd
from coordinator.fleet.state import Fleet, RunningPlan
from coordinator.workflows.yaml_files import parse_workflow
from tiermesh.documents.plan import Plan
from tiermesh.documents.workflow import PERCENTILES, Slo
from tiermesh.v1 import telemetry_pb2 as pb

WINDOWS_S: Final = {"1min": 60.0, "10min": 600.0, "1h": 3_600.0, "run": 0.0}
SHORT, LONG, RUN = "1min", "10min", "run"
IN_WORDS: Final = {"1min": "the last minute", "10min": "the last 10 minutes", "run": "this run"}
FEWEST: Final = 20
"""With fewer requests an SLO may be at risk, and is not called missed."""
CONFIDENCE_Z: Final = 1.959964
"""Standard deviations of a two-sided interval of 95 %."""


class Word(StrEnum):
    """What is to be said of a workflow's SLO."""

    MET = "met"
    AT_RISK = "at-risk"
    MISSED = "missed"
    NO_DATA = "no-data"


class AttainmentVerdict(msgspec.Struct, frozen=True):
    """The verdict, and the reason in a sentence."""

    word: Word
    why: str


class WindowCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of a window, and which of them were within the limit.

    `low` and `high` bound the true share with 95 % confidence (Wilson's interval). `burn_rate` is None where nothing
    ended. `seconds` is how much time the counts cover.
    """

    ended: int
    within: int
    low: float = 0.0
    high: float = 1.0
    share: float | None = None
    burn_rate: float | None = None
    seconds: float = 0.0


class LatencyObjective(msgspec.Struct, frozen=True, kw_only=True):
    """One percentile of the latency SLO. `target` is the share (0 to 1) that must be within `limit_ms`.

    `budget_left` is the share of the run's error budget that is not used up: 1 at first, negative once overspent.
    """

    percentile: str
    target: float
    limit_ms: float
    windows: dict[str, WindowCounts]
    budget_left: float | None = None


class ServedAccuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy, 0 to 1, of the generation that serves; None is not known.

    `served` is the mean accuracy of the lanes that requests really took, `uncertainty` half its interval of 95 % for
    so many requests. A request that a backup served counts as its lane says, though its variant may have been another.
    """

    served: float | None = None
    uncertainty: float = 0.0
    predicted: float | None = None
    floor: float | None = None


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    """US dollars: an hour of what serves now, and since the run began; None where the time is not known."""

    per_hour: float
    so_far_usd: float | None = None


class Attainment(msgspec.Struct, frozen=True, kw_only=True):
    """How a workflow keeps its promise. `goodput_rps` counts requests that ended without an error and within the SLO.

    Goodput is of the last minute, by the loosest limit that is asked; without a latency SLO, of all without an error.
    `ended` and `errors` are of the run.
    """

    verdict: AttainmentVerdict
    objectives: list[LatencyObjective]
    accuracy: ServedAccuracy
    cost: Spending
    goodput_rps: float | None = None
    ended: int = 0
    errors: int = 0


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What the sources of a workflow counted in one window; `per_second` is by what was within, `all` by all."""

    ended: int = 0
    failed: int = 0
    within: dict[str, int] = {}
    seconds: float = 0.0
    per_second: dict[str, float] = {}

    def since(self, before: Counted) -> Counted:
        """What was counted since; all, where the counts have begun anew meanwhile."""
        if before.ended > self.ended:
            return self
        return Counted(
            ended=self.ended - before.ended,
            failed=max(self.failed - before.failed, 0),
            within={p: max(n - before.within.get(p, 0), 0) for p, n in self.within.items()},
            seconds=max(self.seconds - before.seconds, 0.0),
        )


def wilson(good: int, total: int, z: float = CONFIDENCE_Z) -> tuple[float, float]:
    """The interval of a share of which `good` of `total` were seen (E. B. Wilson, 1927); (0, 1) where none was."""
    if not total:
        return 0.0, 1.0
    share, square = good / total, z * z
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = z / (1 + square / total) * sqrt(share * (1 - share) / total + square / (4 * total**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


# --- from samples --------------------------------------------------------------------------------------------------


def counted(sources: Iterable[pb.SourceSample]) -> dict[str, Counted]:
    """The windows of all sources, by name; those that none of them tells are left out."""
    found: dict[str, Counted] = {}
    names = {seconds: name for name, seconds in WINDOWS_S.items()}
    for source in sources:
        for window in source.windows:
            name = names.get(window.seconds)
            if name is not None:
                found[name] = _joined(found.get(name, Counted()), window)
    return found


def _joined(total: Counted, window: pb.SloWindow) -> Counted:
    within = dict(Counter(total.within) + Counter(dict(window.within)))
    within |= {p: within.get(p, 0) for p in (*total.within, *window.within)}
    seconds = window.covered_seconds
    rates = {**window.within, "": window.ended - window.failed}
    per_second = {
        name: total.per_second.get(name, 0.0) + (count / seconds if seconds > 0 else 0.0)
        for name, count in rates.items()
    }
    return Counted(
        ended=total.ended + window.ended,
        failed=total.failed + window.failed,
        within=within,
        seconds=max(total.seconds, seconds),
        per_second={**total.per_second, **per_second},
    )


def attainment_of(
    workflow: str, fleet: Fleet, samples: Iterable[pb.Sample], now: float | None = None
) -> Attainment:
    """How a running workflow keeps its SLO, from the newest sample of each device; `now` in Unix seconds."""
    running = fleet.running[workflow]
    sources = [
        source
        for sample in samples
        for source in sample.figures.sources
        if (source.workflow, source.run) == (workflow, running.run)
    ]
    slo, windows = slo_of(fleet, running), counted(sources)
    plan = fleet.plans[running.plan].plan
    parts = objectives_of(slo, windows), accuracy_of(plan, slo, sources, running.generation)
    return Attainment(
        verdict=judge(*parts, windows),
        objectives=parts[0],
        accuracy=parts[1],
        cost=spending_of(fleet, running, now),
        goodput_rps=_goodput(slo, windows.get(SHORT)),
        ended=windows.get(RUN, Counted()).ended,
        errors=windows.get(RUN, Counted()).failed,
    )


def slo_of(fleet: Fleet, running: RunningPlan) -> Slo:
    """What is asked of a running workflow; nothing where its file is not known."""
    source = fleet.workflows.get(running.workflow_digest)
    return _parsed(source.text) if source is not None else Slo()


@lru_cache(maxsize=64)
def _parsed(text: str) -> Slo:
    return parse_workflow(text).slo


def objectives_of(slo: Slo, windows: Mapping[str, Counted]) -> list[LatencyObjective]:
    """Each percentile of the latency SLO in each window."""
    return [
        _objective(percentile, float(limit), windows) for percentile, limit in slo.latency.items()
    ]


def _objective(percentile: str, limit_s: float, windows: Mapping[str, Counted]) -> LatencyObjective:
    target = PERCENTILES[percentile]
    shares = {name: _share(percentile, target, found) for name, found in windows.items()}
    burned = shares[RUN].burn_rate if RUN in shares else None
    return LatencyObjective(
        percentile=percentile,
        target=target,
        limit_ms=1_000 * limit_s,
        windows=shares,
        budget_left=None if burned is None else 1.0 - burned,
    )


def _share(percentile: str, target: float, found: Counted) -> WindowCounts:
    within, ended = found.within.get(percentile, 0), found.ended
    if not ended:
        return WindowCounts(ended=0, within=0, seconds=found.seconds)
    low, high = wilson(within, ended)
    return WindowCounts(
        ended=ended,
        within=within,
        share=within / ended,
        low=low,
        high=high,
        burn_rate=(1 - within / ended) / (1 - target),
        seconds=found.seconds,
    )


def _goodput(slo: Slo, minute: Counted | None) -> float | None:
    if minute is None:
        return None
    loosest = max(slo.latency, key=lambda p: float(slo.latency[p]), default="")
    return minute.per_second.get(loosest, 0.0)


def accuracy_of(
    plan: Plan, slo: Slo, sources: Iterable[pb.SourceSample], generation: int
) -> ServedAccuracy:
    """What was served, by the lanes that requests took in a generation."""
    taken = Counter[int]()
    for source in sources:
        if source.generation == generation:
            taken.update(dict(source.lanes))
    known = [
        (accuracy, taken[i])
        for i, lane in enumerate(plan.lanes)
        if (accuracy := lane.accuracy) is not None and taken[i]
    ]
    served, uncertainty = _mean(known) if len(known) == len(+taken) else (None, 0.0)
    return ServedAccuracy(
        served=served,
        uncertainty=uncertainty,
        predicted=plan.predicted.accuracy,
        floor=float(slo.accuracy.at_least) if slo.accuracy is not None else None,
    )


def _mean(known: Sequence[tuple[float, int]]) -> tuple[float | None, float]:
    """The mean of values by their counts, and half its interval of 95 %."""
    total = sum(count for _, count in known)
    if not total:
        return None, 0.0
    mean = sum(value * count for value, count in known) / total
    variance = sum(count * (value - mean) ** 2 for value, count in known) / total
    return mean, CONFIDENCE_Z * sqrt(variance / total)


def spending_of(fleet: Fleet, running: RunningPlan, now: float | None) -> Spending:
    """What a run costs: what its earlier generations came to, and the one that serves."""
    so_far = spent_usd(fleet, running, now) if now is not None else None
    return Spending(per_hour=price_per_hour(fleet, running), so_far_usd=so_far)


# --- the verdict ---------------------------------------------------------------------------------------------------


def judge(
    objectives: Sequence[LatencyObjective], accuracy: ServedAccuracy, windows: Mapping[str, Counted]
) -> AttainmentVerdict:
    """The verdict while it serves: by the last ten minutes, warned by the last one.

    Missed is only what the counts say with 95 % confidence, of `FEWEST` requests at least.
    """
    run = windows.get(RUN)
    if run is None or not run.ended:
        return AttainmentVerdict(Word.NO_DATA, "no request has ended yet")
    if (below := _below_floor(accuracy)) is not None:
        return below
    if not objectives:
        return _without_slo(windows.get(LONG, run))
    return _worst([_judged(objective) for objective in objectives])


def judge_finally(
    objectives: Sequence[LatencyObjective], accuracy: ServedAccuracy, found: Counted
) -> tuple[AttainmentVerdict, list[LatencyObjective]]:
    """The verdict on what has ended: a share that is counted whole needs no confidence.

    Also the objectives as counted in `found`, as the window `run`.
    """
    judged = [_objective(o.percentile, o.limit_ms / 1_000, {RUN: found}) for o in objectives]
    if not found.ended:
        return AttainmentVerdict(Word.NO_DATA, "no request has ended"), judged
    if (below := _below_floor(accuracy)) is not None:
        return below, judged
    if not judged:
        return _without_slo(found), judged
    return _worst([_counted_out(objective) for objective in judged]), judged


def _worst(verdicts: Sequence[AttainmentVerdict]) -> AttainmentVerdict:
    order = (Word.MISSED, Word.AT_RISK, Word.NO_DATA, Word.MET)
    return min(verdicts, key=lambda verdict: order.index(verdict.word))


def _below_floor(accuracy: ServedAccuracy) -> AttainmentVerdict | None:
    served, floor = accuracy.served, accuracy.floor
    if served is None or floor is None or served + accuracy.uncertainty >= floor - 1e-9:
        return None
    return AttainmentVerdict(
        Word.MISSED, f"the accuracy served is {served:.2%}, below its floor of {floor:.2%}"
    )


def _without_slo(found: Counted) -> AttainmentVerdict:
    counts = f"{found.ended:,} ended, {found.failed:,} of them in an error"
    word = Word.AT_RISK if found.failed else Word.MET
    return AttainmentVerdict(word, f"no latency SLO is set; {counts}")


def _judged(objective: LatencyObjective) -> AttainmentVerdict:
    name = LONG if objective.windows.get(LONG, _NOTHING).ended else RUN
    recent, minute = objective.windows[name], objective.windows.get(SHORT, _NOTHING)
    run, target = objective.windows[RUN], objective.target
    said = _in_words(objective, recent, name)
    if recent.ended >= FEWEST and recent.high < target:
        return AttainmentVerdict(Word.MISSED, said)
    if (recent.share or 0.0) < target:
        return AttainmentVerdict(Word.AT_RISK, f"{said}; {_interval(recent)}")
    if minute.ended >= FEWEST and minute.high < target:
        return AttainmentVerdict(Word.AT_RISK, _in_words(objective, minute, SHORT))
    if run.ended >= FEWEST and run.high < target:
        return AttainmentVerdict(
            Word.AT_RISK, f"{_in_words(objective, run, RUN)}; met since: {said}"
        )
    return AttainmentVerdict(
        Word.MET, f"{said}; {_interval(recent)}" if recent.low < target else said
    )


_NOTHING: Final = WindowCounts(ended=0, within=0)


def _counted_out(objective: LatencyObjective) -> AttainmentVerdict:
    run = objective.windows[RUN]
    word = Word.MET if (run.share or 0.0) >= objective.target else Word.MISSED
    return AttainmentVerdict(word, _in_words(objective, run))


def _in_words(objective: LatencyObjective, found: WindowCounts, window: str = "") -> str:
    within = f"within {seconds(objective.limit_ms)}"
    when = f" in {IN_WORDS[window]}" if window else ""
    return (
        f"{objective.percentile}: {found.share or 0.0:.1%} of {found.ended:,} requests {within}{when}"
        f" ({objective.target:.0%} asked)"
    )


def _interval(found: WindowCounts) -> str:
    few = "few requests, " if found.ended < FEWEST else ""
    return f"{few}{found.low:.1%} to {found.high:.1%} with 95 % confidence"


def seconds(milliseconds: float) -> str:
    """A limit as people write it."""
    return f"{milliseconds:g} ms" if milliseconds < 1_000 else f"{milliseconds / 1_000:g} s"


class Announcing:
    """Whether a verdict is news: only once it has held for `FEWEST` more requests, so that none goes to and fro."""

    def __init__(self) -> None:
        self.said = Word.NO_DATA
        self._new: tuple[Word, int] | None = None

    def is_news(self, word: Word, ended: int) -> bool:
        """Take a verdict in, after so many requests of the run; whether to tell it now."""
        if word in (self.said, Word.NO_DATA):
            self._new = None
            return False
        if self._new is None or self._new[0] is not word or ended < self._new[1]:
            self._new = (word, ended)
        if ended - self._new[1] < FEWEST:
            return False
        self.said, self._new = word, None
        return True
