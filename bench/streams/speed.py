"""Frames a second and the delay of a hop, beside raw grpc.aio on the same two processes."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Final

from ends import RAW, REPORT, Driver, frames
from msgspec.structs import replace

from agent.serving.streams.sender import Link
from agent.serving.streams.transport import Outgoing
from tiermesh import wire
from tiermesh.frames import pack

SIZES: Final = {
    "100 B": 100,
    "1 KiB": 1_024,
    "8 KiB": 8_192,
    "147 KiB": 150_528,
    "800 KiB": 819_200,
}
_AT_ONCE: Final = 64
_FASTEST: Final = 400_000
"""Frames a second that there are always enough of."""
_ROUNDS: Final = 3
_DELAYS: Final = 150


async def measure(address: str, seconds: float) -> list[dict[str, Any]]:
    """One row per size of frame; each figure is the best of three, ours and raw by turns."""
    driver = Driver("a", address)
    driver.outgoing = Outgoing(driver, driver.flow(), "b", address, insecure_lan=False)
    channel = wire.channel(address)
    rows: list[dict[str, Any]] = []
    try:
        await _connected(driver)
        for label, size in SIZES.items():
            ours, raw = 0.0, 0.0
            # By turns, so that what else runs on this machine hits both.
            for _ in range(_ROUNDS):
                ours = max(ours, await _ours(driver, size, seconds))
                raw = max(raw, await _raw(channel, size, seconds))
            rows.append(
                {
                    "frame": label,
                    "frames_per_s": round(ours),
                    "mb_per_s": round(ours * size / 1e6, 1),
                    "raw_frames_per_s": round(raw),
                    "ratio": round(ours / raw, 2),
                    **await _delay(driver, channel, size),
                }
            )
    finally:
        await driver.outgoing.close()
        await channel.close()
    return rows


async def _connected(driver: Driver) -> None:
    sender = driver.flow().links.sender("b", driver.now())
    while sender.link is not Link.UP:  # noqa: ASYNC110 - the link says nothing when it comes up
        await asyncio.sleep(0.01)


async def _ours(driver: Driver, size: int, seconds: float) -> float:
    """Frames a second, acknowledged; as fast as backpressure lets them go. They are made before the clock starts."""
    flow = driver.flow()
    sender = flow.links.sender("b", driver.now())
    most = int(min(_FASTEST, 8e9 / size) * seconds)
    waiting = list(frames(pack({"image": bytes(size)}), most))
    before = sender.sent_frames
    began = driver.now()
    while driver.now() - began < seconds and waiting:
        while not sender.has_room("out"):
            driver.moved.clear()
            await driver.moved.wait()
        now = driver.now()
        for frame in waiting[-_AT_ONCE:]:
            flow.post.send(frame, now)
        del waiting[-_AT_ONCE:]
        driver.changed()
        await asyncio.sleep(0)
    while sender.waiting or sender.unacknowledged:
        driver.moved.clear()
        await driver.moved.wait()
    return (sender.sent_frames - before) / (driver.now() - began)


async def _raw(channel: Any, size: int, seconds: float) -> float:
    """Messages a second through identity serializers, one for each frame, with no acknowledgement at all."""
    call = channel.stream_unary(RAW)()
    message = bytes(size)
    began = time.monotonic()
    sent = 0
    while time.monotonic() - began < seconds:
        await call.write(message)
        sent += 1
    await call.done_writing()
    arrived = int.from_bytes(await call, "little")
    if arrived != sent:
        raise RuntimeError(f"{arrived} of {sent} messages arrived")
    return arrived / (time.monotonic() - began)


async def _delay(driver: Driver, channel: Any, size: int) -> dict[str, float]:
    """From a frame's offer to its arrival in the other flow, one frame every 5 ms."""
    report = channel.unary_unary(REPORT)
    await report(b"")
    for frame in frames(pack({"image": bytes(size)}), _DELAYS):
        now = driver.now()
        driver.flow().post.send(replace(frame, accepted_at=now), now)
        driver.changed()
        await asyncio.sleep(0.005)
    delays = sorted(json.loads(await report(b""))["delays"])
    return {f"hop_p{p}_ms": round(1_000 * delays[len(delays) * p // 100], 2) for p in (50, 99)}
