"""Fetching an artifact from peers: from each as far as it has it, and from the next where it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, cast

import grpc.aio

from agent.rollout.incoming import IncomingArtifact
from tiermesh import wire
from tiermesh.errors import DigestMismatch, LimitExceeded, TiermeshError
from tiermesh.v1 import rollout_pb2 as pb
from tiermesh.v1 import rollout_pb2_grpc

LINGER_S: Final = 2.0
"""A device that is asked for more than it has waits so long for it, where it is arriving."""
SILENCE_S: Final = 5.0
"""A peer that says nothing for so long is given up."""


class Fetching:
    """One artifact on its way here from its peers. `failures` says why a peer was of no use, by its name."""

    def __init__(
        self,
        digest: str,
        size: int,
        peers: Sequence[pb.FetchRequest.Peer],
        arrival: IncomingArtifact,
        *,
        credentials: wire.Credentials = wire.LOOPBACK,
    ) -> None:
        self._digest = digest
        self._size = size
        self._peers = peers
        self._arrival = arrival
        self._credentials = credentials
        self.failures: dict[str, str] = {}

    async def run(self) -> AsyncIterator[str]:
        """Take what the peers have, until it is whole or none has more; gives the name of who sent something.

        Raises:
            StorageFull: the disk here is full.
        """
        before = -1
        while before < self._arrival.held < self._size:
            before = self._arrival.held
            for peer in self._peers:
                if peer.name not in self.failures and self._arrival.held < self._size:
                    async for _ in self._from(peer):
                        yield peer.name

    async def _from(self, peer: pb.FetchRequest.Peer) -> AsyncIterator[None]:
        try:
            channel = wire.channel(self._credentials, peer.address, wire.agent(peer.device))
        except TiermeshError as error:
            self.failures[peer.name] = str(error)
            return
        try:
            async with channel:
                stub = rollout_pb2_grpc.ArtifactsStub(channel)
                call = stub.Read(pb.ReadRequest(digest=self._digest, offset=self._arrival.held))
                async for data in _messages(call):
                    await self._arrival.take(data)
                    yield
        except TimeoutError:
            self.failures[peer.name] = f"it did not answer for {SILENCE_S:g} s"
        except grpc.aio.AioRpcError as error:
            self.failures[peer.name] = str(wire.raised_by(error, peer.name))
        except (DigestMismatch, LimitExceeded) as error:
            self.failures[peer.name] = str(error)


async def _messages(call: grpc.aio.UnaryStreamCall[Any, pb.ReadChunk]) -> AsyncIterator[bytes]:
    try:
        while (chunk := await asyncio.wait_for(call.read(), SILENCE_S)) is not grpc.aio.EOF:
            yield cast("pb.ReadChunk", chunk).data
    finally:
        call.cancel()
