"""The demo's devices: four agents as separate processes on this machine, made really unequal by time dilation."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from tiermesh.errors import TiermeshError

STOP_SECONDS: Final = 10.0
USABLE_SHARE: Final = 0.6
"""The agents compete for one machine: what a batch takes is up to two thirds more than it was when measured alone."""


@dataclass(frozen=True, slots=True)
class DemoDevice:
    """One agent of the demo. `slowdown` is its time dilation; the price is that of the device it stands for."""

    name: str
    tier: str
    price_per_hour: float
    threads: int
    slowdown: float
    usable_share: float = USABLE_SHARE

    def arguments(self, folder: Path, mesh: str) -> list[str]:
        """What `agent run` is called with."""
        return [
            "run",
            *("--state", str(folder / self.name)),
            *("--name", self.name),
            *("--mesh", mesh),
            *("--tier", self.tier),
            *("--price", f"{self.price_per_hour:g}"),
            *("--threads", str(self.threads)),
            *("--slowdown", f"{self.slowdown:g}"),
            *("--usable-share", f"{self.usable_share:g}"),
        ]


DEVICES: Final = (
    DemoDevice("cam-1", "edge", 0.004, threads=1, slowdown=6),
    DemoDevice("cam-2", "edge", 0.006, threads=1, slowdown=4),
    DemoDevice("hub-1", "hub", 0.020, threads=1, slowdown=2),
    DemoDevice("server", "datacenter", 0.120, threads=2, slowdown=1),
)
BUSIEST: Final = "any"
"""Instead of a device's name: the one that a plan gives most to do."""


def mesh_of(folder: Path) -> str:
    """The mesh of the demo with this state folder, so that two demos on one machine do not meet."""
    return f"demo-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:4]}"


class AgentProcess:
    """An agent that was started here and ends with this process, however that ends."""

    def __init__(self, device: DemoDevice, process: asyncio.subprocess.Process, log: Path) -> None:
        self.device = device
        self.process = process
        self.log = log

    @classmethod
    async def start(cls, device: DemoDevice, folder: Path, mesh: str) -> AgentProcess:
        """Start the agent; its output goes to ``<name>.log``."""
        log = folder / f"{device.name}.log"
        with _opened(log) as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "agent.cli", *device.arguments(folder, mesh)),
                "--exit-with-stdin",
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return cls(device, process, log)

    def check(self) -> None:
        """TiermeshError with the end of its log when the agent has ended by itself."""
        if self.process.returncode is not None:
            said = self.log.read_text(errors="replace").strip().splitlines()
            raise TiermeshError(
                f"the agent {self.device.name} ended with code {self.process.returncode}",
                why=" | ".join(said[-3:]),
                fix=f"See {self.log}",
            )

    async def stop(self) -> None:
        """Ask it to end, and make it end if it does not."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


def _opened(log: Path) -> BinaryIO:
    log.parent.mkdir(parents=True, exist_ok=True)
    return log.open("wb")


@contextlib.asynccontextmanager
async def running(
    folder: Path, mesh: str, devices: Sequence[DemoDevice] = DEVICES
) -> AsyncGenerator[list[AgentProcess]]:
    """The agents, for as long as the context lasts; nothing is left running after it."""
    agents: list[AgentProcess] = []
    try:
        for device in devices:
            # One by one: those that have started must be stopped when the next one fails.
            agents.append(await AgentProcess.start(device, folder, mesh))  # noqa: PERF401
        yield agents
    finally:
        await asyncio.shield(asyncio.gather(*(agent.stop() for agent in agents)))
