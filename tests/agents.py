"""Agents as users start them: processes of their own on loopback."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tiermesh import wire

CHECKOUT = Path(__file__).parents[1]
RUN_AGENT = "import sys; from agent.cli import main; sys.exit(main(sys.argv[1:]))"
CODE = """
class Upper:
    def __init__(self, files, options):
        pass

    def apply(self, payload):
        return {"text": bytes(payload["image"]).decode().upper()}
"""


class AgentProcess:
    """An agent's process; its data folder is `folder` / data."""

    def __init__(self, folder: Path, name: str, tier: str, *, price: float = 0.01) -> None:
        self.folder = folder
        self.name = name
        self.tier = tier
        self.price = price
        self.port = wire.free_port()
        self.process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        words = ["run", "--no-announce", "--state", self.folder, "--name", self.name]
        words += ["--tier", self.tier, "--port", self.port, "--threads", 1, "--price", self.price]
        path = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "proto")])
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", RUN_AGENT, *map(str, words)),
            env={**os.environ, "PYTHONPATH": path},
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()


def put_words(folder: Path, count: int) -> None:
    """Put small text files into a folder, for a source of files."""
    folder.mkdir(parents=True)
    for i in range(count):
        (folder / f"{i:03}.txt").write_text(f"word {i}")


def write_workflow(folder: Path, text: str) -> Path:
    """Write a workflow, and the code of its stages into `code` beside it."""
    code = folder / "code"
    code.mkdir()
    (code / "stage.toml").write_text('entry = "upper:Upper"\n')
    (code / "upper.py").write_text(CODE)
    path = folder / "shout.yaml"
    path.write_text(text)
    return path
