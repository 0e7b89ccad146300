"""Fetching from peers, each a real server on loopback: whole, in part, growing, wrong, gone, refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from agent.rollout import artifacts as artifacts_module
from agent.rollout import fetching as fetching_module
from agent.rollout.artifacts import ArtifactsService
from agent.rollout.garbage import Collector
from agent.rollout.store import Store
from tests.doubler import put
from tiermesh import ids, limits, wire
from tiermesh.chunks import Hashing
from tiermesh.v1 import rollout_pb2 as pb
from tiermesh.v1.rollout_pb2_grpc import ArtifactsStub, add_ArtifactsServicer_to_server

CHUNK = 10_000
DATA = bytes(range(256)) * 400
DIGEST = ids.digest_bytes(DATA)


class Peer:
    """A device with a store, and its server."""

    def __init__(self, root: Path) -> None:
        self.name = root.name
        self.device = f"id-of-{root.name}"
        self.store = Store(root)
        self.service = ArtifactsService(self.store, Collector(self.store, list, clock=lambda: 0.0))
        self.server = wire.server(wire.LOOPBACK)
        add_ArtifactsServicer_to_server(self.service, self.server)
        self.address = f"127.0.0.1:{wire.bind(self.server, wire.LOOPBACK, '127.0.0.1', 0)}"
        self.channel = wire.channel(wire.LOOPBACK, self.address, wire.ANY_AGENT)
        self.stub = ArtifactsStub(self.channel)

    def request(self, *peers: Peer, digest: str = DIGEST) -> pb.FetchRequest:
        """What a coordinator asks of a device, with these as its peers."""
        hashing = Hashing(len(DATA))
        hashing.update(DATA)
        return pb.FetchRequest(
            digest=digest,
            size_bytes=len(DATA),
            chunk_digests=hashing.chunk_digests,
            peers=[
                pb.FetchRequest.Peer(name=p.name, address=p.address, device=p.device) for p in peers
            ],
        )

    async def fetch(self, *peers: Peer) -> list[pb.FetchEvent]:
        return [event async for event in self.stub.Fetch(self.request(*peers))]


@pytest.fixture
async def peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Peer]]:
    monkeypatch.setattr(limits, "ARTIFACT_CHUNK_BYTES", CHUNK)
    monkeypatch.setattr(limits, "ARTIFACT_MESSAGE_BYTES", 4_000)
    monkeypatch.setattr(artifacts_module, "LINGER_S", 0.2)
    made = [Peer(tmp_path / name) for name in ("a", "b", "c")]
    for peer in made:
        await peer.server.start()
    yield made
    for peer in made:
        await peer.channel.close()
        await peer.server.stop(None)


async def test_an_artifact_comes_from_a_peer_and_is_told_while_it_comes(peers: list[Peer]) -> None:
    a, b, _ = peers
    put(b.store, DATA)
    events = await a.fetch(b)
    assert a.store.path(DIGEST).read_bytes() == DATA
    assert [e.bytes for e in events] == sorted(e.bytes for e in events)
    assert len(events) > 5
    last = events[-1]
    assert (last.complete, last.peer, last.bytes, dict(last.failures)) == (
        True,
        "b",
        len(DATA),
        {},
    )


async def test_what_is_here_already_is_not_fetched(peers: list[Peer]) -> None:
    a, b, _ = peers
    put(a.store, DATA)
    assert [(e.bytes, e.complete) for e in await a.fetch(b)] == [(len(DATA), True)]


async def test_the_next_peer_goes_on_where_one_fails(peers: list[Peer]) -> None:
    a, b, c = peers
    with a.store.writer(DIGEST, len(DATA)) as writer:
        writer.write(DATA[: 2 * CHUNK + 17])
    await b.server.stop(None)
    put(c.store, DATA)
    events = await a.fetch(b, c)
    assert events[-1].complete
    assert "does not answer" in events[-1].failures["b"]
    assert all(e.bytes > 2 * CHUNK for e in events)


async def test_a_peer_with_other_bytes_is_given_up_and_nothing_good_is_lost(
    peers: list[Peer],
) -> None:
    a, b, c = peers
    put(b.store, DATA)
    wrong = bytearray(DATA)
    wrong[3 * CHUNK + 5] ^= 1
    b.store.path(DIGEST).write_bytes(bytes(wrong))
    last = (await a.fetch(b))[-1]
    assert (last.complete, last.bytes) == (False, 3 * CHUNK)
    assert "has another digest" in last.failures["b"]
    put(c.store, DATA)
    assert (await a.fetch(c))[-1].complete


async def test_peers_that_have_nothing_end_a_fetch_without_blame(peers: list[Peer]) -> None:
    a, b, c = peers
    last = (await a.fetch(b, c))[-1]
    assert (last.complete, last.bytes, dict(last.failures)) == (False, 0, {})


async def test_a_device_that_is_being_sent_an_artifact_passes_on_what_is_verified(
    peers: list[Peer],
) -> None:
    """b receives from here, a follows b and c follows a: a chain that moves as one."""
    a, b, c = peers
    stored = Hashing(len(DATA))
    stored.update(DATA)
    push = b.stub.Push()
    await push.write(
        pb.PushChunk(digest=DIGEST, size_bytes=len(DATA), chunk_digests=stored.chunk_digests)
    )
    await push.read()
    await push.write(pb.PushChunk(data=DATA[: CHUNK + 10]))
    await push.read()
    call = a.stub.Fetch(a.request(b))
    following = aiter(call)
    assert (await anext(following)).bytes == CHUNK
    held = (await a.stub.Stat(pb.StatRequest(digests=[DIGEST]))).held[DIGEST]
    assert (held.bytes, held.readable, held.complete) == (CHUNK, CHUNK, False)
    behind = asyncio.create_task(c.fetch(a))
    await push.write(pb.PushChunk(data=DATA[CHUNK + 10 :]))
    events = [event async for event in following]
    assert events[-1].complete
    assert (await behind)[-1].complete
    assert c.store.path(DIGEST).read_bytes() == DATA
    assert (await push.read()).complete


async def test_a_silent_peer_is_given_up(
    peers: list[Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, _ = peers
    monkeypatch.setattr(fetching_module, "SILENCE_S", 0.1)
    monkeypatch.setattr(artifacts_module, "LINGER_S", 5.0)
    b.service._readers = asyncio.Semaphore(0)
    last = (await a.fetch(b))[-1]
    assert "did not answer for 0.1 s" in last.failures["b"]


async def test_a_peer_beyond_loopback_is_refused_in_words(peers: list[Peer]) -> None:
    a, b, _ = peers
    b.address = "192.0.2.1:7070"
    assert "refusing to connect to 192.0.2.1" in (await a.fetch(b))[-1].failures["b"]


async def test_a_fetch_of_what_is_no_digest_is_refused(peers: list[Peer]) -> None:
    a, b, _ = peers
    with pytest.raises(grpc.aio.AioRpcError, match="is not a digest"):
        _ = [event async for event in a.stub.Fetch(a.request(b, digest="../../etc/passwd"))]
