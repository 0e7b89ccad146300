"""How fast data streams are, and how they recover: ``python bench/streams``. README.md says what was measured."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ends
import faults
import others
import speed

from agent.serving.supervisor import MALLOC
from tiermesh import wire


@contextmanager
def receiver(*, stalled: bool = False, epoch: int = 1, port: int = 0) -> Generator[tuple[int, int]]:
    """A receiving process: its port and its process id."""
    port = port or wire.free_port()
    command = [sys.executable, __file__, "--receive", f"{port}:{epoch}:{int(stalled)}"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**MALLOC, **os.environ},
    ) as process:
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        process.stdout.readline()
        try:
            yield port, process.pid
        finally:
            process.stdin.close()


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table."""
    print("  ".join(f"{name:>18}" for name in rows[0]))
    for row in rows:
        print("  ".join(f"{value!s:>18}" for value in row.values()))


def main() -> None:
    """Measure, and print tables or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--receive", metavar="PORT:EPOCH:STALLED", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0.6, help="per measurement")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not MALLOC.keys() <= os.environ.keys():
        # Both ends as a worker is started; malloc reads this when a process begins.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**MALLOC, **os.environ})  # noqa: S606
    if args.receive is not None:
        port, epoch, stalled = map(int, args.receive.split(":"))
        asyncio.run(ends.receive(port, epoch, stalled=bool(stalled)))
        return
    measured = _measure(args.seconds)
    if args.json:
        print(json.dumps(measured))
        return
    for name, rows in measured.items():
        print(f"\n{name}")
        show(rows)


def _measure(seconds: float) -> dict[str, list[dict[str, Any]]]:
    with receiver() as (port, _):
        rows = asyncio.run(speed.measure(f"127.0.0.1:{port}", seconds))
    return {
        "speed": rows,
        "others": others.measure(speed.SIZES, seconds),
        "recovery": asyncio.run(faults.recovery(receiver)),
        "stalled sink": [asyncio.run(faults.stalled(receiver))],
    }


if __name__ == "__main__":
    main()
