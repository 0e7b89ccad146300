"""The processes of the benchmark, each killed at will: agents, and a coordinator that brings one file to them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tiermesh import wire

ROOT = Path(__file__).parents[2]


class Process:
    """A process of the product that can be killed and started again."""

    def __init__(self, *words: object) -> None:
        self._words = [str(word) for word in words]
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, or start it again."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._words,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto")])},
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def kill(self) -> None:
        """Kill -9, where it runs."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def end(self) -> int:
        """Wait for its end; its exit status."""
        assert self.process is not None  # noqa: S101
        return await self.process.wait()


class Agent(Process):
    """An agent on loopback with a state folder of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.state = folder / name
        self.port = wire.free_port()
        words = ["run", "--no-announce", "--state", self.state, "--name", name]
        super().__init__("-m", "agent.cli", *words, "--port", self.port, "--threads", 1)

    def artifact(self, digest: str) -> Path:
        """Where an artifact lies once it is whole."""
        return self.state / "artifacts" / "complete" / digest.removeprefix("sha256:")

    async def ready(self) -> None:
        """Wait until it takes connections."""
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


def coordinator(file: Path, addresses: Sequence[str]) -> Process:
    """A coordinator that brings a file to the agents at these addresses, and ends when all have it."""
    return Process(Path(__file__).with_name("bringing.py"), file, *addresses)
