"""Frames a second and the delay of a hop, beside raw grpc.aio on the same two processes."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import cycle, islice
from statistics import median
from typing import Any, Final

import numpy as np
from ends import DELAY, RAW, REPORT, Driver, frames
from msgspec.structs import replace

from agent.serving.stream_io.transport import Outgoing
from agent.serving.streams.sender import PeerLink
from tiermesh import wire
from tiermesh.frames import pack

SIZES: Final = {
    "100 B": 100,
    "1 KiB": 1_024,
    "8 KiB": 8_192,
    "147 KiB": 150_528,
    "800 KiB": 819_200,
}
_DISTINCT: Final = 64
"""Payloads that take turns, where they are distinct: 9.6 MB of 147 KiB, more than a core's own cache."""
_AT_ONCE: Final = 64
_FASTEST: Final = 400_000
"""Frames a second that there are always enough of."""
_ROUNDS: Final = 3
_DELAYS: Final = 100
_PAUSE_S: Final = 0.005


def _same(size: int) -> list[bytes]:
    return [bytes(size)]


def _distinct(size: int) -> list[bytes]:
    return [os.urandom(size) for _ in range(_DISTINCT)]


def _arrays(size: int) -> list[Any]:
    return [np.frombuffer(one, np.uint8).copy() for one in _distinct(size)]


PAYLOADS: Final[dict[str, Callable[[int], Sequence[Any]]]] = {
    "same bytes": _same,
    "bytes": _distinct,
    "arrays": _arrays,
}
"""What both sides send: one object again and again; 64 objects by turns; 64 arrays, which raw makes bytes of first."""


async def measure(address: str, seconds: float) -> list[dict[str, Any]]:
    """One row per size of frame and kind of payload."""
    driver = Driver("a", address)
    driver.outgoing = Outgoing(driver, driver.flow(), "b", address, wire.LOOPBACK)
    channel = wire.channel(wire.LOOPBACK, address, wire.ANY_AGENT)
    try:
        await _connected(driver)
        return [
            {"frame": label, "payload": kind, **await _row(driver, channel, made(size), seconds)}
            for label, size in SIZES.items()
            for kind, made in PAYLOADS.items()
        ]
    finally:
        await driver.outgoing.close()
        await channel.close()


async def _row(
    driver: Driver, channel: Any, values: Sequence[Any], seconds: float
) -> dict[str, Any]:
    """Speed: the best of three, ours and raw by turns, since what else runs on this machine hits both."""
    turns = [
        (await _ours(driver, values, seconds), await _raw(channel, values, seconds))
        for _ in range(_ROUNDS)
    ]
    ours, raw = (max(speeds) for speeds in zip(*turns, strict=True))
    ratios = sorted(ours / raw for ours, raw in turns)
    return {
        "frames_per_s": round(ours),
        "mb_per_s": round(ours * len(values[0]) / 1e6, 1),
        "raw_frames_per_s": round(raw),
        "ratio": round(ours / raw, 2),
        "ratio_by_turns": round(median(ratios), 2),
        "ratio_worst": round(ratios[0], 2),
        **_percentiles("hop", await _delays(driver, channel, values)),
        **_percentiles("raw_hop", await _raw_delays(channel, values)),
    }


async def _connected(driver: Driver) -> None:
    sender = driver.flow().links.sender("b", driver.now())
    while sender.link is not PeerLink.UP:  # noqa: ASYNC110 - the link says nothing when it comes up
        await asyncio.sleep(0.01)


async def _ours(driver: Driver, values: Sequence[Any], seconds: float) -> float:
    """Frames a second, acknowledged; as fast as backpressure lets them go. They are made before the clock starts."""
    flow = driver.flow()
    sender = flow.links.sender("b", driver.now())
    most = int(min(_FASTEST, 8e9 / len(values[0])) * seconds)
    payloads = cycle([pack({"image": value}) for value in values])
    waiting = list(frames(islice(payloads, most)))
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


async def _raw(channel: Any, values: Sequence[Any], seconds: float) -> float:
    """Messages a second through identity serializers, one for each frame, with no acknowledgement at all."""
    call = channel.stream_unary(RAW)()
    began = time.monotonic()
    sent = 0
    for value in cycle(values):
        await call.write(_as_bytes(value))
        sent += 1
        if time.monotonic() - began >= seconds:
            break
    await call.done_writing()
    arrived = int.from_bytes(await call, "little")
    if arrived != sent:
        raise RuntimeError(f"{arrived} of {sent} messages arrived")
    return arrived / (time.monotonic() - began)


def _as_bytes(value: Any) -> bytes:
    """What grpc.aio takes."""
    return value if isinstance(value, bytes) else value.tobytes()


async def _every_5_ms(values: Sequence[Any], send: Callable[[Any], Awaitable[None]]) -> None:
    for value in islice(cycle(values), _DELAYS):
        await send(value)
        await asyncio.sleep(_PAUSE_S)


async def _delays(driver: Driver, channel: Any, values: Sequence[Any]) -> list[float]:
    """From a frame's offer to its arrival in the other flow, one frame every 5 ms."""
    report = channel.unary_unary(REPORT)
    await report(b"")

    async def offer(value: Any) -> None:
        (frame,) = frames([pack({"image": value})])
        now = driver.now()
        driver.flow().post.send(replace(frame, accepted_at=now), now)
        driver.changed()

    await _every_5_ms(values, offer)
    return json.loads(await report(b""))["delays"]


async def _raw_delays(channel: Any, values: Sequence[Any]) -> list[float]:
    """From a message's `write` to its arrival in the other process's loop, one every 5 ms."""
    call = channel.stream_unary(DELAY)()
    sent: list[float] = []

    async def write(value: Any) -> None:
        sent.append(time.monotonic())
        await call.write(_as_bytes(value))

    await _every_5_ms(values, write)
    await call.done_writing()
    return [there - here for here, there in zip(sent, json.loads(await call), strict=True)]


def _percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {f"{name}_p{p}_ms": round(1_000 * ordered[len(ordered) * p // 100], 2) for p in (50, 99)}
