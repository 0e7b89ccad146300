"""`python -m bench.batching DATA`: accuracy, speed and choices against BATCH's published method."""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from bench.batching import accuracy, choices, speed
from bench.batching.data import Data, save

PUBLISHED = Path("../shared/data/batch")


def main() -> None:
    """Run the parts that are asked for and print their tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.batching", description=__doc__)
    parser.add_argument(
        "data",
        type=Path,
        nargs="?",
        default=PUBLISHED,
        help="the folder with maps.json and service.json (default: %(default)s)",
    )
    parser.add_argument("--only", choices=["accuracy", "speed", "choices"], help="one part")
    parser.add_argument(
        "--arrivals", type=int, default=2_000_000, help="simulated per accuracy case"
    )
    parser.add_argument(
        "--hours", type=int, default=48, help="how many of the hours are chosen for"
    )
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"skipped: the published data ({args.data}) is not here")
        return
    data = Data(args.data)
    results: dict[str, object] = {}
    parts = {"accuracy": _accuracy, "speed": _speed, "choices": _choices}
    for name, part in parts.items():
        if args.only in (None, name):
            results[name] = part(data, args)
    if args.output:
        save(results, args.output)


def _accuracy(data: Data, args: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    print(
        f"\nError against {args.arrivals:,} simulated arrivals (in brackets: 3 standard errors)\n"
    )
    _header("case", "B", "T (ms)", "servers", "p50", "p95", "p99", "BATCH p95")
    for case in (*accuracy.unlimited_cases(data), *accuracy.device_cases(data)):
        verdict = accuracy.judge(case, args.arrivals)
        cells = [f"{e:+.2%} ({verdict.noise[q]:.2%})" for q, e in verdict.ours.items()]
        batch = "" if verdict.batch_p95 is None else f"{verdict.batch_p95:+.1%}"
        servers = "unlimited" if case.servers is None else str(case.servers)
        fields = [
            case.name,
            str(case.batch_size),
            f"{case.timeout_s * 1e3:g}",
            servers,
            *cells,
            batch,
        ]
        print("| " + " | ".join(fields) + " |", flush=True)
        rows.append(
            {
                "case": case.name,
                "ours": verdict.ours,
                "noise": verdict.noise,
                "batch_p95": verdict.batch_p95,
            }
        )
    return rows


def _speed(data: Data, _: argparse.Namespace) -> dict[str, Any]:
    fixed, free = speed.ours(data, range(20, 21)), speed.ours(data, range(1, 21))
    published = speed.published(data)
    print("\nSeconds for an hour's answer\n")
    _header("hour", "1,372 points", "27,440 points (B = 1 .. 20)")
    for hour in fixed:
        print(f"| {hour} | {fixed[hour]:.3f} | {free[hour]:.3f} |")
    print(f"\nBATCH's solver, 1,372 points of Twitter/1: {published:.1f} s")
    return {"ours_1372": fixed, "ours_27440": free, "published_1372": published}


def _choices(data: Data, args: argparse.Namespace) -> dict[str, Any]:
    hours = dict(list(data.hours().items())[:: max(1, 48 // args.hours)])
    found: dict[tuple[str, str], list[choices.Outcome]] = defaultdict(list)
    for outcome in choices.outcomes(data, hours, 40_000):
        found[outcome.ask.of, outcome.method].append(outcome)
    print(f"\n{len(hours)} hours x 3 models x 3 asks each; simulated with 40,000 arrivals\n")
    _header("ask", "method", "chosen", "broken when simulated", "worst", "USD/1e6", "mean p95 (s)")
    summary: dict[str, Any] = {}
    for (of, method), rows in found.items():
        figures = summary[f"{of}, {method}"] = _summary(rows)
        shares = (
            f"{figures['chosen']}/{len(rows)}",
            f"{figures['broken']} ({figures['broken_share']:.0%})",
        )
        means = f"{figures['worst']:+.1%}", f"{figures['cost'] * 1e6:.2f}", f"{figures['p95']:.2f}"
        print("| " + " | ".join([of, method, *shares, *means]) + " |")
    summary["saved"] = _saved(found)
    print(
        f"\nLetting B vary saves {summary['saved']:.1%} of the cost under a latency ceiling, on average."
    )
    return summary


def _summary(rows: list[choices.Outcome]) -> dict[str, float]:
    made = [(row, row.point) for row in rows if row.point is not None]
    broken = sum(row.broken for row, _ in made)
    return {
        "chosen": len(made),
        "of": len(rows),
        "broken": broken,
        "broken_share": broken / len(made),
        "worst": max((row.simulated or 0.0) / row.ask.limit - 1 for row, _ in made),
        "cost": mean(point.cost_per_request_usd for _, point in made),
        "p95": mean(point.estimate.p95 for _, point in made),
    }


def _header(*names: str) -> None:
    print("| " + " | ".join(names) + " |")
    print("|" + " --- |" * len(names))


def _saved(found: dict[tuple[str, str], list[choices.Outcome]]) -> float:
    pairs = zip(
        found["latency", "exact, B = 20"], found["latency", "exact, B = 1 .. 20"], strict=True
    )
    return mean(
        1 - free.point.cost_per_request_usd / fixed.point.cost_per_request_usd
        for fixed, free in pairs
        if fixed.point and free.point
    )


if __name__ == "__main__":
    main()
