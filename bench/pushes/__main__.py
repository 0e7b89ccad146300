"""What it costs to bring an artifact to devices through breaks, and to many at once: ``python bench/pushes``.

Agents and coordinator are processes of their own. Each agent is behind a relay that counts every byte that leaves the
coordinator for it, gRPC's own included, whether it arrives or not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.pushes.scenarios import through_breaks, to_many
from tiermesh import ids


async def measure(megabytes: int, devices: int) -> list[dict[str, Any]]:
    """All rows."""
    with tempfile.TemporaryDirectory(prefix="tiermesh-pushes-") as name:
        folder = Path(name)
        data = random.Random(1).randbytes(megabytes * 10**6)
        digest = ids.digest_bytes(data)
        file = folder / "artifact"
        file.write_bytes(data)
        del data
        return [
            await through_breaks(folder / "breaks", file, digest),
            await to_many(folder / "one", file, digest, 1),
            await to_many(folder / "many", file, digest, devices),
        ]


def main() -> int:
    """Measure, and print a table or JSON; 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = asyncio.run(measure(args.megabytes, args.devices))
    if args.json:
        print(json.dumps(rows))
    else:
        print("  ".join(f"{name:>18}" for name in rows[0]))
        for row in rows:
            print("  ".join(f"{value!s:>18}" for value in row.values()))
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
