"""What a fault costs a stream: how long nothing arrives, and what is sent again; and memory under a stalled sink."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Final

from ends import REPORT, Driver, frames

from agent.serving.stream_io.transport import Outgoing
from agent.serving.streams.sender import PeerLink
from tiermesh import wire
from tiermesh.frames import pack

Receiver = Callable[..., AbstractContextManager[tuple[int, int]]]

FRAME_BYTES: Final = 8_192
RATE_RPS: Final = 2_000
_STOPPED_S: Final = 0.5
_STEP_S: Final = 0.005
_STALL_S: Final = 3.0


async def recovery(receiver: Receiver) -> list[dict[str, Any]]:
    """One row per kind of fault, at 2,000 frames of 8 KiB a second."""
    rows: list[dict[str, Any]] = []
    for fault in ("connection cut", "worker killed", "worker stopped 0.5 s"):
        with ExitStack() as running:
            rows.append(await _suffer(fault, receiver, running))
    return rows


async def _suffer(fault: str, receiver: Receiver, running: ExitStack) -> dict[str, Any]:
    port, pid = running.enter_context(receiver())
    driver = Driver("a", f"127.0.0.1:{port}")
    address = f"127.0.0.1:{port}"
    driver.outgoing = Outgoing(driver, driver.flow(), "b", address, wire.LOOPBACK)
    offering = asyncio.create_task(_offer(driver))
    sender = driver.flow().links.sender("b", driver.now())
    await _until(lambda: sender.link is PeerLink.UP and sender.sent_frames > 500)
    sent, again = sender.sent_frames, sender.resent_bytes
    began = time.monotonic()
    upto = sender.oldest + sender.unacknowledged + sender.waiting
    if fault == "connection cut":
        driver.outgoing.hang_up()
    elif fault == "worker killed":
        os.kill(pid, signal.SIGKILL)
        running.enter_context(receiver(port=port, epoch=2))
    else:
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(_STOPPED_S)
        os.kill(pid, signal.SIGCONT)
    await _until(lambda: sender.link is PeerLink.UP and sender.oldest > upto)
    seconds = time.monotonic() - began
    offering.cancel()
    await driver.outgoing.close()
    lost = sender.sent_frames - sent
    return {
        "fault": fault,
        "recovered_ms": round(1_000 * seconds),
        "resent_kib": round((sender.resent_bytes - again) / 1_024),
        "sent_meanwhile_kib": round(lost * FRAME_BYTES / 1_024),
    }


async def _offer(driver: Driver) -> None:
    payload = pack({"image": bytes(FRAME_BYTES)})
    flow = driver.flow()
    while True:
        if flow.links.sender("b", driver.now()).has_room("out"):
            for frame in frames([payload] * int(RATE_RPS * _STEP_S)):
                flow.post.send(frame, driver.now())
            driver.changed()
        await asyncio.sleep(_STEP_S)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        # A sender says nothing when it is through.
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def stalled(receiver: Receiver) -> dict[str, Any]:
    """Memory of both ends while a sink takes frames of 147 KiB and finishes none, offered as fast as there is room."""
    size = 150_528
    with receiver(stalled=True) as (port, pid):
        address = f"127.0.0.1:{port}"
        driver = Driver("a", address)
        driver.outgoing = Outgoing(driver, driver.flow(), "b", address, wire.LOOPBACK)
        sender = driver.flow().links.sender("b", driver.now())
        await _until(lambda: sender.link is PeerLink.UP)
        before = _resident(os.getpid()), _resident(pid)
        offered, end = 0, time.monotonic() + _STALL_S
        while time.monotonic() < end:
            while sender.has_room("out"):
                (frame,) = frames([pack({"image": os.urandom(size)})])
                driver.flow().post.send(frame, driver.now())
                offered += 1
            driver.changed()
            await asyncio.sleep(0.01)
        channel = wire.channel(wire.LOOPBACK, address, wire.ANY_AGENT)
        seen = json.loads(await channel.unary_unary(REPORT)(b""))
        after = _resident(os.getpid()), _resident(pid)
        await channel.close()
        await driver.outgoing.close()
    return {
        "offered": offered,
        "taken": seen["arrived"],
        "offered_mb": round(offered * size / 1e6),
        "sender_grew_mb": after[0] - before[0],
        "receiver_grew_mb": after[1] - before[1],
    }


def _resident(pid: int) -> int:
    """Resident memory in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000
