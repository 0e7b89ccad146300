"""Cost, bound, gap and time of the planner, from 9 workers to 10,000 devices: `python bench/planner`.

Each line is one solve of one instance (by seed). Time is that of the whole call, from the problem to the plan, on
this machine; `greedy` is the cost of the greedy strategy on the same instance. With `--jellybean DIR` the published
example is planned at five accuracies first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
from instances import different, in_classes

from coordinator.planning import Options, Strategy, solve
from coordinator.planning.importers import jellybean
from coordinator.planning.verify import violations
from tiermesh.documents.problem import Problem
from tiermesh.errors import TiermeshError

RULES: Final = {
    "default": Options(),
    "exclusive single-variant": Options(exclusive=True, single_variant=True),
}
WORKERS: Final = (9, 25, 50, 100, 150)
DEVICES: Final = (100, 1_000, 10_000)
ACCURACIES: Final = (54.0, 55.0, 56.0, 57.0, 58.0)


@dataclass(frozen=True)
class Line:
    """One solve."""

    instance: str
    seed: int
    rules: str
    cost: float
    bound: float | None
    gap: float | None
    seconds: float
    greedy: float | None
    replicas: int
    lanes: int
    violations: int


def measure(problem: Problem, rules: str, options: Options, seed: int = 0) -> Line:
    """Solve once and look the plan over."""
    started = time.perf_counter()
    plan = solve(problem, options)
    seconds = time.perf_counter() - started
    return Line(
        instance=problem.name,
        seed=seed,
        rules=rules,
        cost=plan.cost.total_per_hour,
        bound=plan.solver.bound,
        gap=plan.solver.gap,
        seconds=seconds,
        greedy=_greedy(problem, options),
        replicas=len(plan.replicas),
        lanes=len(plan.lanes),
        violations=len(violations(problem, plan, options)),
    )


def _greedy(problem: Problem, options: Options) -> float | None:
    try:
        plan = solve(problem, replace(options, strategy=Strategy.GREEDY))
    except TiermeshError:
        return None
    return plan.cost.total_per_hour


def published(folder: Path) -> Iterator[Line]:
    """JellyBean's example, at five accuracies."""
    files = {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()}
    example = jellybean.problem_from(files)
    for accuracy in ACCURACIES:
        asks = msgspec.structs.replace(example.asks, accuracy_at_least=accuracy)
        problem = msgspec.structs.replace(example, asks=asks, name=f"vqa-{accuracy:g}")
        for rules, options in RULES.items():
            yield measure(problem, rules, options)


def random_ones(seeds: int, gap: float, time_limit_s: float) -> Iterator[Line]:
    """Instances of every size, `seeds` of each."""
    for workers in WORKERS:
        for seed in range(1, seeds + 1):
            for rules, options in RULES.items():
                bounded = replace(options, gap=gap, time_limit_s=time_limit_s)
                yield measure(different(workers, seed), rules, bounded, seed)
    bounded = Options(gap=gap, time_limit_s=time_limit_s)
    for devices in DEVICES:
        for seed in range(1, seeds + 1):
            yield measure(in_classes(devices, seed=seed), "default", bounded, seed)


def show(line: Line) -> None:
    """Print a line of the table."""
    gap = "" if line.gap is None else f"{line.gap:.3%}"
    greedy = "none" if line.greedy is None else f"{line.greedy:.4f}"
    wrong = f"  {line.violations} rules broken" if line.violations else ""
    print(
        f"{line.instance:16} {line.seed:4} {line.rules:24} {line.cost:10.4f} {line.bound or 0:10.4f} "
        f"{gap:>7} {line.seconds:6.2f} {greedy:>10} {line.lanes:6}{wrong}",
        flush=True,
    )


def main() -> None:
    """Print a table, or with `--json` one object a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jellybean", type=Path, metavar="DIR")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gap", type=float, default=0.01)
    parser.add_argument("--time-limit", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not args.json:
        print(
            f"{'instance':16} {'seed':>4} {'rules':24} {'USD/h':>10} {'bound':>10} {'gap':>7} "
            f"{'s':>6} {'greedy':>10} {'lanes':>6}"
        )
    first = published(args.jellybean) if args.jellybean is not None else iter(())
    for line in itertools.chain(first, random_ones(args.seeds, args.gap, args.time_limit)):
        if args.json:
            print(json.dumps(asdict(line)), flush=True)
        else:
            show(line)


if __name__ == "__main__":
    main()
