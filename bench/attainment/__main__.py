"""SLO attainment through disturbances, of the product and of others: ``python bench/attainment``.

By default in simulated time: simulated devices around the product's own state machines, and the product's own
coordinator. With `--live`, on the demo's mesh of real agents and models. `--table` shows rows that were kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Final

from bench.attainment import settings
from bench.attainment.matrix import Effort, rows
from bench.attainment.scenes import SCENES
from bench.attainment.scoring import Row
from bench.attainment.systems import SYSTEMS
from bench.attainment.table import markdown

MESHES: Final = {"demo": settings.demo, "fleet": settings.fleet}
QUICK: Final = {
    "mesh": "demo",
    "scenes": "steady,thermal,load-1.5",
    "systems": "ours,replan-only,static,jellybean,clairvoyant",
    "seconds": 200.0,
}


def main() -> None:
    """Print the table; write rows with `-o`."""
    args = _parser().parse_args()
    if args.table:
        print(markdown([Row(**row) for path in args.table for row in json.loads(path.read_text())]))
        return
    if args.quick:
        for name, value in QUICK.items():
            setattr(args, name, value)
    if args.live:
        from bench.attainment import live

        live.main(args)
        return
    found = _simulated(args)
    if args.output is not None:
        args.output.write_text(json.dumps([row.plain() for row in found], indent=1) + "\n")
    print(markdown(found))


def _simulated(args: argparse.Namespace) -> list[Row]:
    effort = Effort(seconds=args.seconds, seed=args.seed)
    scenes = [SCENES[name] for name in args.scenes.split(",")]
    systems = [SYSTEMS[name] for name in args.systems.split(",")]
    began, found = time.perf_counter(), list[Row]()
    for mesh in args.mesh.split(","):
        setting = MESHES[mesh]() if args.rate is None else MESHES[mesh](args.rate)
        for row in rows(setting, scenes, systems, effort):
            found.append(row)
            took = f"{row.wall_s:.0f} s, {time.perf_counter() - began:.0f} s in all"
            told = f"{mesh} {row.scene} {row.system}: {row.attainment:.1%} ({took})"
            print(told, file=sys.stderr, flush=True)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--mesh", default="demo", help="demo, fleet, or both")
    add("--scenes", default=",".join(SCENES), help=f"of {', '.join(SCENES)}")
    add("--systems", default=",".join(SYSTEMS), help=f"of {', '.join(SYSTEMS)}")
    add("--seconds", type=float, default=600.0, help="of each run, simulated or live")
    add("--rate", type=float, help="requests a second (default: 4 in the demo, 40 in the fleet)")
    add("--seed", type=int, default=1)
    add("--quick", action="store_true", help="a few short runs")
    add("--live", action="store_true", help="on the demo's mesh, with real agents and models")
    add("--busy", type=int, default=2, help="live: busy processes of host-busy")
    add("--slo", type=float, default=settings.SLO_S, help="live: p95 in seconds")
    add("--keep", type=Path, metavar="DIR", help="live: keep the state of the agents here")
    add("-o", "--output", type=Path, metavar="rows.json", help="write the rows here")
    add("--table", type=Path, nargs="+", metavar="rows.json", help="show rows that were kept")
    return parser


if __name__ == "__main__":
    main()
