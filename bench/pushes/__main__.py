"""What it costs to bring an artifact to devices through breaks, and to many at once: ``python bench/pushes``.

Agents and coordinator are processes of their own. Each agent is behind a relay that counts every byte that leaves the
coordinator for it, gRPC's own included, whether it arrives or not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.pushes.processes import Agent, Process, coordinator
from bench.pushes.relay import Relay
from tiermesh import ids, limits

BREAKS = ("kill agent", "kill coordinator", "cut", "kill coordinator", "kill agent")


@contextlib.asynccontextmanager
async def agents(folder: Path, count: int) -> AsyncGenerator[list[tuple[Agent, Relay]]]:
    """Agents, each with the relay before it."""
    async with contextlib.AsyncExitStack() as stack:
        made: list[tuple[Agent, Relay]] = []
        for number in range(count):
            agent = Agent(folder, f"dev-{number}")
            await agent.start()
            stack.push_async_callback(agent.kill)
            relay = await stack.enter_async_context(Relay(agent.port).open())
            made.append((agent, relay))
        for agent, _ in made:
            await agent.ready()
        yield made


async def through_breaks(folder: Path, file: Path, digest: str) -> dict[str, Any]:
    """Break a push at even distances, by kill -9 of either end and by cutting the connection."""
    size = file.stat().st_size
    async with agents(folder, 1) as ((agent, relay),):
        process = coordinator(file, [f"127.0.0.1:{relay.port}"])
        await process.start()
        began = time.monotonic()
        for how in BREAKS:
            await relay.hold_after(size // (len(BREAKS) + 1))
            await relay.quiet()
            await break_it(how, agent, process, relay)
        status = await process.end()
        seconds = time.monotonic() - began
        whole = agent.artifact(digest).is_file()
    chunks = len(BREAKS) * limits.ARTIFACT_CHUNK_BYTES
    return {
        "what": f"{len(BREAKS)} breaks",
        "ok": status == 0 and whole and relay.sent_bytes <= 1.05 * size + chunks,
        "size_bytes": size,
        "sent_bytes": relay.sent_bytes,
        "sent_over_size": round(relay.sent_bytes / size, 4),
        "promised_over_size": round(1.05 + chunks / size, 4),
        "seconds": round(seconds, 2),
    }


async def break_it(how: str, agent: Agent, process: Process, relay: Relay) -> None:
    """One break; whoever was killed starts again."""
    if how == "kill agent":
        await agent.kill()
        await relay.cut()
        await agent.start()
    elif how == "kill coordinator":
        await process.kill()
        await relay.cut()
        await process.start()
    else:
        await relay.cut()


async def to_many(folder: Path, file: Path, digest: str, count: int) -> dict[str, Any]:
    """The same artifact to several devices of one LAN at once."""
    size = file.stat().st_size
    async with agents(folder, count) as made:
        process = coordinator(file, [f"127.0.0.1:{relay.port}" for _, relay in made])
        began = time.monotonic()
        await process.start()
        status = await process.end()
        seconds = time.monotonic() - began
        whole = all(agent.artifact(digest).is_file() for agent, _ in made)
        sent = sum(relay.sent_bytes for _, relay in made)
    return {
        "what": f"{count} devices",
        "ok": status == 0 and whole and sent <= 1.3 * size,
        "size_bytes": size,
        "sent_bytes": sent,
        "sent_over_size": round(sent / size, 4),
        "promised_over_size": 1.3,
        "seconds": round(seconds, 2),
    }


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
