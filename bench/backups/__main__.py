"""How long the flow is short after a device that carries a stage dies: ``python bench/backups``.

Real processes in network namespaces. All requests go through one lane, whose stages have a backup on another device;
the device is killed (agent and worker, kill -9) or its link is cut, comes back, and so on. What is measured is the data
path: the senders move to the backup by themselves, no plan is made. See tests/mesh for the lab.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.mesh.lab import Lab, lab
from tests.mesh.network import unavailable
from tests.mesh.recovery import recovery_s

ONE_LANE: Final = [{stage: ["a", "b"] for stage in ("left", "right", "both")}]
APART_S: Final = 5.0
AWAY_S: Final = 1.5
GOAL_S: Final = 3.0
FAULTS: Final = ("kill -9", "link cut")


async def measure(folder: Path, how: str, times: int, rate: int) -> dict[str, Any]:
    """One kind of fault, several times."""
    count = round(rate * (APART_S * times + 5.0))
    async with lab(folder, "a", "b") as made:
        await made.serve(ONE_LANE, count=count, rate=rate)
        await made.arrived(2 * rate, 60.0)
        begun: list[float] = []
        for _ in range(times):
            begun.append(time.time())
            await hurt(made, how)
            await asyncio.sleep(begun[-1] + APART_S - time.time())
        await made.arrived(count, 60.0)
        outcomes = made.check_ledger(count)
        finished = [line.finished_at for line in made.lines()]
    found = [recovery_s(finished, at, rate) for at in begun]
    return {
        "fault": how,
        "times": times,
        "rate_per_s": rate,
        "median_s": round(statistics.median(found), 2),
        "p90_s": round(sorted(found)[math.ceil(0.9 * len(found)) - 1], 2),
        "longest_s": round(max(found), 2),
        "requests": count,
        "lost": count - outcomes["result"],
    }


async def hurt(made: Lab, how: str) -> None:
    """Take the device that carries the lane away, and give it back."""
    device = made.devices["a"]
    if how == "kill -9":
        await device.kill()
        await asyncio.sleep(AWAY_S)
        await device.start()
    else:
        made.network.down("a")
        await asyncio.sleep(AWAY_S)
        made.network.up("a")


def show(row: dict[str, Any], *, headed: bool) -> None:
    """Print a row as soon as it is measured, below the names of its columns if it is the first."""
    if headed:
        print("  ".join(f"{name:>12}" for name in row))
    print("  ".join(f"{value!s:>12}" for value in row.values()), flush=True)


def main() -> int:
    """Measure, and print a table or JSON; 1 where the flow takes too long to come back, or a request is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--rate", type=int, default=50)
    parser.add_argument("--fault", choices=FAULTS, help="only this one")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    why = unavailable()
    if why:
        print(f"skipped: {why}")
        return 0
    rows: list[dict[str, Any]] = []
    for how in FAULTS if args.fault is None else [args.fault]:
        with tempfile.TemporaryDirectory(prefix="tiermesh-backups-") as name:
            rows.append(asyncio.run(measure(Path(name), how, args.times, args.rate)))
        if not args.json:
            show(rows[-1], headed=len(rows) == 1)
    if args.json:
        print(json.dumps(rows))
    good = all(row["median_s"] <= GOAL_S and row["lost"] == 0 for row in rows)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
