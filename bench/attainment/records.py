"""A live run read from the sinks' files: when requests were due, when they ended, and what was on the photos."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any, Final

from agent.serving.endpoints.arrivals import ArrivalSchedule
from bench.attainment.truth import Sent
from tiermesh import ids
from tiermesh.documents.assignment import SourceSpec
from tiermesh.documents.plan import Plan
from tiermesh.errors import TiermeshError

WORKFLOW: Final = "read-signs"


@dataclass(frozen=True, kw_only=True)
class LiveRow:
    """One line of the live table.

    All but what begins with `product_` comes from the sinks' files: latency is from when a request was due, and one
    that has no result is missed. `accuracy` is the share of characters read right. `replans` are by reason.
    """

    scene: str
    seconds: float
    seed: int
    slo_s: float
    offered: int
    attainment: float
    disturbed: float
    recover_s: float | None
    p50_ms: float
    p95_ms: float
    predicted_p95_ms: float
    accuracy: float
    errors: int
    twice: int
    cost_per_hour: float
    planned_per_hour: float
    replans: dict[str, int]
    rollouts: int
    retried: int
    product_attainment: float | None
    product_accuracy: float | None
    product_verdict: str

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Camera:
    """One replica of the source: its device's id, its arrivals, and the run that its ids follow from."""

    device: str
    arrivals: ArrivalSchedule
    run: str

    def due(self, ended: Mapping[str, Mapping[str, Any]], horizon_s: float) -> list[Sent]:
        """What was due here in so many seconds since the source began, and what became of it.

        When it began is known to a few milliseconds: no request is accepted before it is due.
        """
        offsets = self._offsets(horizon_s)
        of = [ended.get(ids.request_id(WORKFLOW, self.run, i)) for i in range(len(offsets))]
        known = zip(of, offsets, strict=True)
        begun = min((line["accepted_at"] - at for line, at in known if line), default=inf)
        return [_sent(self.device, begun + at, line) for line, at in zip(of, offsets, strict=True)]

    def _offsets(self, horizon_s: float) -> list[float]:
        found: list[float] = []
        at = self.arrivals.gap(0)
        while at < horizon_s and len(found) < (self.arrivals.count or inf):
            found.append(at)
            at += self.arrivals.gap(len(found))
        return found


def _sent(device: str, due: float, line: Mapping[str, Any] | None) -> Sent:
    if line is None:
        return Sent(device, due)
    is_result = line["outcome"] == "result"
    return Sent(device, due, line["accepted_at"], line["finished_at"], is_result)


def camera(
    device: str, spec: SourceSpec, share: tuple[float, float], run: str, trace: Sequence[float]
) -> Camera:
    """A replica of the source as its agent makes it."""
    return Camera(device, ArrivalSchedule(spec, 1_000_000, share, trace), f"{run}@{device}")


def lines(files: Iterable[Path], run: str) -> list[dict[str, Any]]:
    """What the sinks wrote down of a run."""
    rows = (json.loads(row) for file in files for row in file.read_bytes().splitlines())
    return [row for row in rows if row.get("run") == run]


def share_within(sent: Sequence[Sent], slo_s: float, begin: float, end: float) -> float:
    """Of those due from `begin` to `end`, the share with a result in time."""
    of = [s for s in sent if begin <= s.due < end]
    return sum(_latency_s(s) <= slo_s for s in of) / len(of) if of else 1.0


def percentile_ms(sent: Sequence[Sent], level: float) -> float:
    """A percentile of the latency from when requests were due; infinite where too many have no result."""
    found = sorted(_latency_s(s) for s in sent)
    return 1e3 * found[min(int(level * len(found)), len(found) - 1)] if found else inf


def _latency_s(sent: Sent) -> float:
    return sent.ended - sent.due if sent.ended is not None and sent.is_result else inf


def shares_of(plans: Sequence[Plan]) -> dict[str, tuple[float, float]]:
    """From where to where in [0, 1) each camera makes the source's requests.

    Raises:
        TiermeshError: plans of one run differ in it, so that it is not known when requests were due.
    """
    found = [_shares(plan) for plan in plans]
    if any(_rounded(other) != _rounded(found[0]) for other in found):
        raise TiermeshError("a replan has changed how requests are split over the cameras")
    return found[0]


def _shares(plan: Plan) -> dict[str, tuple[float, float]]:
    device = {r.id: r.device for r in plan.replicas}
    shares: dict[str, float] = {}
    for lane in plan.lanes:
        at = device[lane.path["photos"]]
        shares[at] = shares.get(at, 0.0) + lane.share
    ends, total = dict[str, tuple[float, float]](), 0.0
    whole = sum(shares.values())
    for name, share in shares.items():
        ends[name] = total / whole, (total + share) / whole
        total += share
    return ends


def _rounded(shares: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    return {name: round(end - begin, 6) for name, (begin, end) in shares.items()}


def markdown(rows: Sequence[LiveRow]) -> str:
    """The live table."""
    head = (
        "scene",
        "requests",
        "attainment",
        "disturbed",
        "product says",
        "p50",
        "p95 (predicted)",
        "accuracy",
        "recover",
        "replans",
        "USD/h (planned)",
        "again",
        "errors",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(_cells(row)) + " |" for row in rows)])


def _cells(row: LiveRow) -> list[str]:
    said = "none" if row.product_attainment is None else f"{row.product_attainment:.1%}"
    told = ", ".join(f"{n} {reason}" for reason, n in sorted(row.replans.items()))
    return [
        row.scene,
        str(row.offered),
        f"{row.attainment:.1%}",
        f"{row.disturbed:.1%}",
        said,
        f"{row.p50_ms:.0f}",
        f"{row.p95_ms:.0f} ({row.predicted_p95_ms:.0f})",
        f"{row.accuracy:.1%}",
        "never" if row.recover_s is None else f"{row.recover_s:.0f} s",
        f"{told}; {row.rollouts} rolled out" if told else "0",
        f"{row.cost_per_hour:.4g} ({row.planned_per_hour:.4g})",
        str(row.retried),
        str(row.errors),
    ]
