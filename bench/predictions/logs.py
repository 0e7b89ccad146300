"""What the workers' logs of batches say of a run: where reality was not as it was predicted."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

from coordinator.telemetry.drift import Drift, DriftWindow, Key, Ratio, drift, key_of, means_of
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem


@dataclass(frozen=True)
class Findings:
    """Where a run was not as predicted.

    `slower` is measured over profiled device time, by stage, of its variant with the most batches; hops go from a
    request's end at one replica to its arrival at the next. `items` are mean and variance of a request's items at the
    last model, `batch` is the mean size by stage, `busiest` the share of time that the busiest device worked.
    """

    slower: Mapping[str, Ratio]
    hop_p50_ms: float
    hop_p95_ms: float
    items: tuple[float, float]
    batch: Mapping[str, float]
    busiest: float


def entries(folders: Iterable[Path], generation: int) -> list[dict[str, Any]]:
    """What the workers of these agents wrote down of a generation, oldest first."""
    files = [f for folder in folders for f in sorted(folder.glob("logs/batches.jsonl*"))]
    found = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    of = [entry for entry in found if entry["generation"] == generation]
    return sorted(of, key=lambda entry: entry.get("end", 0.0))


def drifts(logged: Sequence[Mapping[str, Any]], problem: Problem, plan: Plan) -> dict[Key, Drift]:
    """How each replica's batches compare with its profile."""
    windows = _windows(logged)
    profiled = {(p.stage, p.variant, p.device): means_of(p.batches) for p in problem.profiles}
    return {
        key_of(r): drift(windows[r.id], profiled[key_of(r)]) for r in plan.replicas if r.variant
    }


def findings(logged: Sequence[Mapping[str, Any]], problem: Problem, plan: Plan) -> Findings:
    """What of a run differs from what the predictions took for granted."""
    replica_of = {r.id: r for r in plan.replicas}
    sizes: defaultdict[str, list[int]] = defaultdict(list)
    busy: defaultdict[str, float] = defaultdict(float)
    batches = [e for e in logged if e["entry"] == "batch"]
    for entry in batches:
        replica = replica_of[entry["replica"]]
        sizes[replica.stage].append(entry["size"])
        busy[replica.device] += entry["service_s"]
    requests = [e for e in logged if e["entry"] == "request"]
    hops = sorted(_hops(requests))
    last = [s.name for s in problem.stages if s.kind == "model"][-1]
    items = [e["items"] for e in requests if replica_of[e["replica"]].stage == last]
    span = max(e["end"] for e in batches) - min(e["start"] for e in batches)
    return Findings(
        slower=_by_stage(logged, problem, plan),
        hop_p50_ms=1e3 * median(hops),
        hop_p95_ms=1e3 * hops[int(0.95 * len(hops))],
        items=(fmean(items), fmean([(i - fmean(items)) ** 2 for i in items])),
        batch={s: fmean(of) for s, of in sizes.items()},
        busiest=max(busy.values()) / span,
    )


def _by_stage(
    logged: Sequence[Mapping[str, Any]], problem: Problem, plan: Plan
) -> dict[str, Ratio]:
    """Measured over profiled device time of all replicas of a stage, which are on devices of one class."""
    profiled = {(p.stage, p.variant): means_of(p.batches) for p in problem.profiles}
    windows = _windows(logged)
    pooled: defaultdict[str, list[Ratio]] = defaultdict(list)
    for stage, variant in dict.fromkeys((r.stage, r.variant) for r in plan.replicas if r.variant):
        of = [
            w
            for r in plan.replicas
            if (r.stage, r.variant) == (stage, variant)
            for w in windows[r.id]
        ]
        ratio = drift(of, profiled[stage, variant]).overall
        if ratio is not None:
            pooled[stage].append(ratio)
    return {stage: max(of, key=lambda ratio: ratio.batches) for stage, of in pooled.items()}


def _windows(logged: Sequence[Mapping[str, Any]]) -> Mapping[str, list[DriftWindow]]:
    """A window for each batch, by replica."""
    found: defaultdict[str, list[DriftWindow]] = defaultdict(list)
    for entry in logged:
        if entry["entry"] == "batch":
            size = entry["size"]
            found[entry["replica"]].append(DriftWindow({size: 1}, {size: entry["service_s"]}))
    return found


def _hops(requests: Sequence[Mapping[str, Any]]) -> list[float]:
    """Seconds between a request's end at one replica and its arrival at the next."""
    ways: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for entry in requests:
        ways[entry["request"]].append((entry["arrival"], entry["departure"]))
    found: list[float] = []
    for way in ways.values():
        way.sort()
        found += [later[0] - earlier[1] for earlier, later in pairwise(way)]
    return found
