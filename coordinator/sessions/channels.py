"""Channels to agents, one per address, made when first needed and closed together."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar, cast

import grpc.aio

from tiermesh import wire

T = TypeVar("T")


async def next_of(call: grpc.aio.UnaryStreamCall[Any, T], timeout_s: float) -> T | None:
    """The next message of a stream, None at its end; TimeoutError when none comes in time."""
    message = await asyncio.wait_for(call.read(), timeout_s)
    return None if message is grpc.aio.EOF else cast("T", message)


class Channels:
    """The coordinator's channels to agents."""

    def __init__(self, *, insecure_lan: bool = False) -> None:
        self.insecure_lan = insecure_lan
        self._channels: dict[str, grpc.aio.Channel] = {}

    def to(self, address: str) -> grpc.aio.Channel:
        """The channel to ``host:port``; TiermeshError where connecting there is not allowed."""
        if address not in self._channels:
            self._channels[address] = wire.channel(address, insecure_lan=self.insecure_lan)
        return self._channels[address]

    async def close(self) -> None:
        """Close them all; calls under way end."""
        channels, self._channels = list(self._channels.values()), {}
        await asyncio.gather(*(channel.close() for channel in channels))
