"""Channels to agents, one per address and expected identity, made when first needed and closed together."""

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

    def __init__(self, credentials: wire.Credentials = wire.LOOPBACK) -> None:
        self.credentials = credentials
        self._channels: dict[tuple[str, wire.PeerIdentity], wire.PeerChannel] = {}

    def to(self, address: str, expected: wire.PeerIdentity) -> grpc.aio.Channel:
        """The channel to ``host:port``, where `expected` should be; for one conversation.

        Raises:
            AddressRefused: connecting there is not allowed.
        """
        key = address, expected
        if key not in self._channels:
            self._channels[key] = wire.PeerChannel(self.credentials, address, expected)
        return self._channels[key].current()

    async def close(self) -> None:
        """Close them all; calls under way end."""
        channels, self._channels = list(self._channels.values()), {}
        await asyncio.gather(*(channel.close() for channel in channels))
