"""How light the agent is: the size of its base install, and what its two processes hold in memory.

Makes an environment of its own with nothing but the base install, measures the agent there, adds ONNX Runtime,
and measures the worker. `python bench/footprint [--json]`; needs pip's registry or cache.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

from agent.serving import control
from tiermesh.wire import free_port, join_address

ROOT: Final = Path(__file__).parents[2]
MB: Final = 1_000_000
READY_S: Final = 30.0
SETTLE_S: Final = 3.0
"""The announcements of the first seconds are over by then."""
NOT_OURS: Final = ("pip", "setuptools", "wheel", "_distutils_hack")
AMBITIONS_MB: Final = {"base install": 45, "agent, idle": 45, "worker with ONNX Runtime": 110}
WORKER: Final = """
from agent.model_host.runtimes import runtime
runtime("onnx").start()
from agent.serving import worker
worker.main()
"""


def installed(folder: Path, extra: str = "") -> Path:
    """The Python of the environment in `folder` after the project has been installed into it."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    constraints = ["--constraint", ROOT / "constraints.txt"]
    subprocess.run([*pip, *constraints, f"{ROOT}{extra}"], check=True, stdout=sys.stderr)
    return python


def install_bytes(folder: Path) -> int:
    """All files in site-packages, compiled ones too, without the installer's own."""
    (packages,) = folder.glob("lib/python*/site-packages")
    return sum(
        file.lstat().st_size
        for file in packages.rglob("*")
        if file.is_file()
        and not file.relative_to(packages).parts[0].partition("-")[0].startswith(NOT_OURS)
    )


def resident_bytes(pid: int) -> int:
    """What a process holds in memory, shared libraries included."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return int(fields["VmRSS"].split()[0]) * 1024


@contextlib.asynccontextmanager
async def running(
    *command: str | Path, fd: int | None = None
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A process while the context lasts. It sees the environment's packages only, not this checkout."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd="/",
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        pass_fds=[] if fd is None else [fd],
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def serving(process: asyncio.subprocess.Process) -> None:
    """Wait until the agent logs that it serves."""
    if process.stderr is not None:
        async for line in process.stderr:
            if b" listening on " in line:
                return
    raise RuntimeError("the agent ended before it served")


async def agent_bytes(python: Path, state: Path) -> int:
    """The agent once it serves and announces itself, with nothing to do."""
    async with running(python, "-m", "agent.cli", "run", "--state", state) as process:
        async with asyncio.timeout(READY_S):
            await serving(process)
        await asyncio.sleep(SETTLE_S)
        return resident_bytes(process.pid)


async def worker_bytes(python: Path, state: Path) -> int:
    """A worker that takes frames and has imported ONNX Runtime, without a model."""
    mine, theirs = socket.socketpair()
    async with running(python, "-c", WORKER, str(theirs.fileno()), fd=theirs.fileno()) as process:
        theirs.close()
        reader, writer = await asyncio.open_connection(sock=mine)
        writer.write(control.encode(start_message(state)))
        async with asyncio.timeout(READY_S):
            answer = await control.read_to_agent(reader)
        match answer:
            case control.Ready():
                await asyncio.sleep(SETTLE_S)
            case _:
                raise RuntimeError(f"the worker is not ready: {answer}")
        found = resident_bytes(process.pid)
        writer.close()
        return found


def start_message(state: Path) -> control.Start:
    """What an agent tells its worker first."""
    return control.Start(
        device="footprint",
        epoch=1,
        data_address=join_address("127.0.0.1", free_port()),
        data_folder=str(state / "data"),
        state_folder=str(state),
        store=str(state / "artifacts"),
        threads=1,
        slowdown=1.0,
    )


def measure(folder: Path) -> dict[str, float]:
    """All figures in MB."""
    environment, state = folder / "venv", folder / "state"
    python = installed(environment)
    size = install_bytes(environment)
    agent = asyncio.run(agent_bytes(python, state))
    installed(environment, "[onnx]")
    worker = asyncio.run(worker_bytes(python, state))
    return dict(zip(AMBITIONS_MB, (size / MB, agent / MB, worker / MB), strict=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tiermesh-footprint-") as folder:
        found = measure(Path(folder))
    if args.json:
        print(json.dumps({"measured_mb": found, "ambition_mb": AMBITIONS_MB}))
        return
    print(f"{'':28}{'measured':>10}{'ambition':>12}")
    for what, megabytes in found.items():
        print(f"{what:28}{megabytes:7.1f} MB{'<= ' + str(AMBITIONS_MB[what]):>9} MB")


if __name__ == "__main__":
    main()
