"""What a run comes to, from its requests alone: nothing of it is the product's own counting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import inf
from statistics import fmean
from typing import Any, Final

from bench.attainment import plans
from bench.attainment.running import Run
from bench.attainment.scenes import FROM, UNTIL, WARM_UP
from bench.attainment.settings import ACCURACY, SLO_S
from bench.attainment.truth import Sent
from coordinator.fleet import events

TARGET: Final = 0.95
"""The SLO is on p95."""
BIN_S: Final = 5.0
GOOD_BINS: Final = 3
ACCURACY_WINDOW: Final = 200
"""Requests over which the mean accuracy is taken, to be compared with its floor."""
ROLLED_OUT: Final = ("replaced", "degraded")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Shares are of the requests that were due after the warm-up; a request that was never accepted is missed.
    `disturbed` is the attainment from the beginning of the disturbance to its end. `recover_s` are the seconds from
    then on until the SLO is kept for three bins of five seconds: 0 where it always was, None where that never came.
    `accuracy_least` is the lowest mean of 200 results in a row. `feasible` is whether foresight finds a plan that
    keeps the SLO in every phase.
    """

    mesh: str
    scene: str
    system: str
    seed: int
    seconds: float
    scale: float
    offered: int
    attainment: float
    disturbed: float
    goodput_rps: float
    p50_ms: float
    p95_ms: float
    accuracy: float
    accuracy_least: float
    cost_per_hour: float
    recover_s: float | None
    replans: dict[str, int]
    rollouts: int
    retried: float
    duplicates: float
    errors: int
    wall_s: float
    feasible: bool | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def scored(run: Run, mesh: str, seed: int) -> Row:
    """The row of a run."""
    begin, end = WARM_UP * run.seconds, run.seconds
    sent = [s for s in everything(run) if begin <= s.due < end]
    latencies = sorted(latency_s(s) for s in sent)
    results = sorted((s for s in sent if s.is_result), key=lambda s: s.ended or 0.0)
    accuracies = [_accuracy(s) for s in results]
    told = [e for e in run.world.told if isinstance(e, events.ReplanEnded)]
    from_s, until_s = FROM * run.seconds, UNTIL * run.seconds
    retried, duplicates = _repeated(run)
    return Row(
        mesh=mesh,
        scene=run.scene.name,
        system=run.system.name,
        seed=seed,
        seconds=run.seconds,
        scale=run.scale,
        offered=len(sent),
        attainment=_within(sent),
        disturbed=_within([s for s in sent if from_s <= s.due < until_s]),
        goodput_rps=sum(latency_s(s) <= SLO_S for s in sent) / (end - begin),
        p50_ms=_pick(latencies, 0.5) * 1e3,
        p95_ms=_pick(latencies, TARGET) * 1e3,
        accuracy=fmean(accuracies) if accuracies else 0.0,
        accuracy_least=_least(accuracies),
        cost_per_hour=plans.cost_of(run.world.plans, begin, end),
        recover_s=recover_s(sent, from_s, until_s),
        replans=dict(Counter(e.reason for e in told)),
        rollouts=sum(e.outcome in ROLLED_OUT for e in told),
        retried=retried / max(len(run.truth.by_id), 1),
        duplicates=duplicates / max(len(run.truth.by_id), 1),
        errors=sum(s.ended is not None and not s.is_result for s in sent),
        wall_s=run.wall_s,
        feasible=run.feasible,
    )


def everything(run: Run) -> list[Sent]:
    """Every request that was due, also what no source accepted."""
    return [*run.truth.by_id.values(), *(Sent("", due) for due in run.truth.unaccepted())]


def latency_s(sent: Sent) -> float:
    """From when it was due to its result; infinite where there was none."""
    return sent.ended - sent.due if sent.ended is not None and sent.is_result else inf


def _within(sent: Sequence[Sent]) -> float:
    return sum(latency_s(s) <= SLO_S for s in sent) / len(sent) if sent else 1.0


def _pick(ordered: Sequence[float], level: float) -> float:
    return ordered[min(int(level * len(ordered)), len(ordered) - 1)] if ordered else inf


def _accuracy(sent: Sent) -> float:
    return ACCURACY[sent.variants["detect"], sent.variants["recognise"]]


def _least(accuracies: Sequence[float]) -> float:
    window = min(ACCURACY_WINDOW, len(accuracies))
    if not window:
        return 0.0
    total = least = sum(accuracies[:window])
    for old, new in zip(accuracies, accuracies[window:], strict=False):
        total += new - old
        least = min(least, total)
    return least / window


def recover_s(sent: Iterable[Sent], begin: float, end: float, slo_s: float = SLO_S) -> float | None:
    """Seconds from the beginning of a disturbance until requests keep the SLO again for a while; see `Row`."""
    bins: list[list[bool]] = [[] for _ in range(max(int((end - begin) / BIN_S), 1))]
    for one in sent:
        index = int((one.due - begin) // BIN_S)
        if 0 <= index < len(bins):
            bins[index].append(latency_s(one) <= slo_s)
    good = [sum(of) >= TARGET * len(of) for of in bins]
    if all(good):
        return 0.0
    first = good.index(False)
    for index in range(first, len(good) - GOOD_BINS + 1):
        if all(good[index : index + GOOD_BINS]):
            return index * BIN_S
    return None


def _repeated(run: Run) -> tuple[int, int]:
    """Requests that were injected again, and ends that came twice."""
    flows = [m.flow for m in run.world.machines.values() if m.flow is not None]
    retried = sum(s.ledger.counts.retried for f in flows for s in f.sources.by_key.values())
    twice = sum(sink.counts.duplicates for f in flows for sink in f.sinks.values())
    return retried, twice
