"""The two things that are measured: one push broken again and again, and one artifact to many devices."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from bench.pushes.processes import Agent, Process, coordinator
from bench.pushes.relay import Relay
from tiermesh import limits

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
    size = (await asyncio.to_thread(file.stat)).st_size
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
    size = (await asyncio.to_thread(file.stat)).st_size
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
