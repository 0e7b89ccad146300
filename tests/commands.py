"""Commands as a user runs them: processes of their own, with all the processes that come of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[1]
MARK = "TIERMESH_TEST_MARK"

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="processes are found through /proc"
)


class Commands:
    """Runs the modules of commands with one environment; a mark in it is handed down to every process."""

    def __init__(self, **environment: str) -> None:
        self.mark = uuid.uuid4().hex
        self._started: list[Command] = []
        path = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "proto")])
        self.environment = {**os.environ, "PYTHONPATH": path, MARK: self.mark, **environment}

    async def start(self, module: str, *words: object) -> Command:
        """Start ``python -m module words...`` in the checkout."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *map(str, words)),
            cwd=CHECKOUT,
            env=self.environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._started.append(Command(process))
        return self._started[-1]

    async def run(self, module: str, *words: object) -> Command:
        """Run a command to its end."""
        command = await self.start(module, *words)
        await command.end()
        return command

    def processes(self) -> dict[int, str]:
        """The command lines of what these commands started and has not ended, by pid."""
        mark = f"{MARK}={self.mark}".encode()
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    words = (entry / "cmdline").read_bytes().decode().split("\0")
                    found[int(entry.name)] = " ".join(words)
            except OSError:
                continue
        return found

    async def close(self) -> None:
        """Kill what is left."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        await asyncio.gather(*(one.end() for one in self._started if one.code is None))
        await until(lambda: not self.processes(), "what a test left ends")


class Command:
    """A process of a command, and what it said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out = ""
        self.said = ""

    @property
    def code(self) -> int | None:
        return self.process.returncode

    @property
    def document(self) -> Mapping[str, Any]:
        """The one JSON document on standard output."""
        return json.loads(self.out)

    async def says(self, text: str) -> None:
        """Wait until a line on standard error has `text`."""
        assert self.process.stderr is not None
        while line := (await self.process.stderr.readline()).decode():
            self.said += line
            if text in line:
                return
        raise AssertionError(f"it never said {text!r}:\n{self.said}")

    async def end(self) -> None:
        """Close its standard input, wait for its end, and read all that it says until then."""
        out, said = await self.process.communicate(b"")
        self.out += out.decode()
        self.said += said.decode()


async def until(condition: Callable[[], object], what: str, limit_s: float = 20.0) -> None:
    """Wait for a condition, or fail with `what`."""
    try:
        async with asyncio.timeout(limit_s):
            while not condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {limit_s:g} s: {what}") from None
