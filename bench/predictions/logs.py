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

from estimates import batches_of

from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem


@dataclass(frozen=True)
class Findings:
    """Where a run was not as predicted.

    `slower` is measured over profiled batch seconds, by stage; hops go from a request's end at one replica to its
    arrival at the next. `items` are mean and variance of a request's items at the last model, `batch` is the mean
    size by stage, `busiest` the share of time that the busiest device worked.
    """

    slower: Mapping[str, float]
    hop_p50_ms: float
    hop_p95_ms: float
    items: tuple[float, float]
    batch: Mapping[str, float]
    busiest: float


def entries(folders: Iterable[Path], generation: int) -> list[dict[str, Any]]:
    """What the workers of these agents wrote down of a generation, oldest first."""
    files = [f for folder in folders for f in sorted(folder.glob("logs/batches.jsonl*"))]
    found = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [entry for entry in found if entry["generation"] == generation]


def findings(logged: Sequence[Mapping[str, Any]], problem: Problem, plan: Plan) -> Findings:
    """What of a run differs from what the predictions took for granted."""
    stage_of = {r.id: r.stage for r in plan.replicas}
    profiled = {r.id: batches_of(problem, r) for r in plan.replicas}
    slower: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    sizes: defaultdict[str, list[int]] = defaultdict(list)
    busy: defaultdict[str, float] = defaultdict(float)
    device_of = {r.id: r.device for r in plan.replicas}
    batches = [e for e in logged if e["entry"] == "batch"]
    for entry in batches:
        replica, size = entry["replica"], entry["size"]
        sizes[stage_of[replica]].append(size)
        busy[device_of[replica]] += entry["service_s"]
        if size in profiled[replica]:
            pair = entry["service_s"], profiled[replica][size]
            slower[stage_of[replica]].append(pair)
    requests = [e for e in logged if e["entry"] == "request"]
    hops = sorted(_hops(requests))
    last = [s.name for s in problem.stages if s.kind == "model"][-1]
    items = [e["items"] for e in requests if stage_of[e["replica"]] == last]
    span = max(e["end"] for e in batches) - min(e["start"] for e in batches)
    return Findings(
        slower={s: sum(a for a, _ in of) / sum(b for _, b in of) for s, of in slower.items()},
        hop_p50_ms=1e3 * median(hops),
        hop_p95_ms=1e3 * hops[int(0.95 * len(hops))],
        items=(fmean(items), fmean([(i - fmean(items)) ** 2 for i in items])),
        batch={s: fmean(of) for s, of in sizes.items()},
        busiest=max(busy.values()) / span,
    )


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
