"""Pushes to a real server: whole, broken and resumed, twice, wrong, without room, taken over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import pytest

from agent.errors import Superseded
from agent.rollout.artifacts import ArtifactsService
from agent.rollout.garbage import Collector
from agent.rollout.store import Store
from coordinator.artifacts.transfer import Pushing, Sendable
from tests.doubler import put
from tiermesh import ids, limits, wire
from tiermesh.chunks import Hashing
from tiermesh.errors import DigestMismatch, StorageFull, TiermeshError
from tiermesh.v1 import rollout_pb2 as pb
from tiermesh.v1.rollout_pb2_grpc import ArtifactsStub, add_ArtifactsServicer_to_server

if TYPE_CHECKING:
    from tiermesh.v1.rollout_pb2_grpc import ArtifactsAsyncStub

DATA = b"0123456789" * 250_000
DIGEST = ids.digest_bytes(DATA)
MESSAGE = limits.ARTIFACT_MESSAGE_BYTES
CHUNK = limits.ARTIFACT_CHUNK_BYTES


def service_of(store: Store) -> ArtifactsService:
    return ArtifactsService(store, Collector(store, list, clock=lambda: 0.0))


@pytest.fixture
async def channel(store: Store) -> AsyncIterator[grpc.aio.Channel]:
    server = wire.server(wire.LOOPBACK)
    add_ArtifactsServicer_to_server(service_of(store), server)
    port = wire.bind(server, wire.LOOPBACK, "127.0.0.1", 0)
    await server.start()
    async with wire.channel(wire.LOOPBACK, f"127.0.0.1:{port}", wire.ANY_AGENT) as channel:
        yield channel
    await server.stop(None)


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> ArtifactsAsyncStub:
    return ArtifactsStub(channel)


def chunk_digests(data: bytes = DATA) -> bytes:
    hashing = Hashing(len(data))
    hashing.update(data)
    return hashing.chunk_digests


def chunks(
    data: bytes = DATA, offset: int = 0, stop: int | None = None, digests: bytes = b""
) -> Iterator[pb.PushChunk]:
    yield pb.PushChunk(digest=DIGEST, size_bytes=len(DATA), chunk_digests=digests)
    for at in range(offset, len(data) if stop is None else stop, MESSAGE):
        yield pb.PushChunk(data=data[at : at + MESSAGE])


async def push(stub: ArtifactsAsyncStub, parts: Iterator[pb.PushChunk]) -> list[pb.PushReply]:
    try:
        return [reply async for reply in stub.Push(parts)]
    except grpc.aio.AioRpcError as error:
        raise wire.raised_by(error, "the device") from None


async def test_a_broken_push_goes_on_at_what_the_device_says(
    stub: ArtifactsAsyncStub, store: Store
) -> None:
    replies = await push(stub, chunks(stop=MESSAGE))
    assert [(r.bytes, r.complete) for r in replies] == [
        (0, False),
        (MESSAGE, False),
        (MESSAGE, False),
    ]
    stat = await stub.Stat(pb.StatRequest(digests=[DIGEST]))
    assert (stat.held[DIGEST].bytes, stat.held[DIGEST].complete) == (MESSAGE, False)
    assert stat.free_bytes > 0
    replies = await push(stub, chunks(offset=MESSAGE))
    assert (replies[0].bytes, replies[-1].complete) == (MESSAGE, True)
    assert store.path(DIGEST).read_bytes() == DATA
    assert [r.complete for r in await push(stub, chunks(stop=0))] == [True]
    held = (await stub.Stat(pb.StatRequest(digests=[DIGEST]))).held[DIGEST]
    assert (held.complete, held.readable) == (True, len(DATA))


async def test_the_wrong_content_is_refused_and_forgotten(
    stub: ArtifactsAsyncStub, store: Store
) -> None:
    with pytest.raises(DigestMismatch, match="its digest is sha256:"):
        await push(stub, chunks(b"x" * len(DATA)))
    assert store.held(DIGEST) == 0


async def test_a_wrong_chunk_ends_a_push_and_what_is_before_it_stays(
    stub: ArtifactsAsyncStub, store: Store
) -> None:
    wrong = DATA[: CHUNK + 5] + b"x" + DATA[CHUNK + 6 :]
    with pytest.raises(DigestMismatch, match=f"its chunk at byte {CHUNK} "):
        await push(stub, chunks(wrong, digests=chunk_digests()))
    assert store.held(DIGEST) == CHUNK
    assert (await push(stub, chunks(offset=CHUNK, digests=chunk_digests())))[-1].complete


async def test_the_coordinator_is_told_why_while_it_is_still_sending(
    channel: grpc.aio.Channel, store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "changed"
    path.write_bytes(b"x" * len(DATA))
    seen: list[int] = []
    pushing = Pushing(channel, "the device")
    with pytest.raises(DigestMismatch, match="its chunk at byte 0 "):
        await pushing.push(Sendable(DIGEST, len(DATA), path, chunk_digests()), seen.append)
    assert (seen.count(0), store.held(DIGEST)) == (1, 0), "one attempt, of which nothing stays"


async def test_a_full_disk_is_told_before_anything_is_sent(
    stub: ArtifactsAsyncStub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "free_bytes", lambda: 10)
    with pytest.raises(StorageFull, match="10 may be used"):
        await push(stub, chunks())


async def test_room_is_made_of_what_nothing_needs(
    stub: ArtifactsAsyncStub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, needed = put(store, b"old" * 1_000_000), put(store, b"needed")
    await stub.Stat(pb.StatRequest(digests=[needed.digest], keep_for="a test", generation=1))

    def free_bytes() -> int:
        return 0 if store.has(old.digest) else old.size_bytes

    monkeypatch.setattr(store, "free_bytes", free_bytes)
    stat = await stub.Stat(pb.StatRequest(digests=[DIGEST]))
    assert (stat.free_bytes, stat.reclaimable_bytes) == (0, old.size_bytes)
    assert (await push(stub, chunks()))[-1].complete
    assert store.digests() == {DIGEST, needed.digest}


async def test_a_newer_push_takes_over_and_goes_on_where_the_older_was(store: Store) -> None:
    service = service_of(store)
    waiting = asyncio.Event()
    said: list[pb.PushReply] = []

    async def say(reply: pb.PushReply) -> None:
        said.append(reply)

    async def stalled() -> AsyncIterator[pb.PushChunk]:
        for chunk in chunks(stop=MESSAGE):
            yield chunk
        waiting.set()
        await asyncio.Event().wait()

    async def another() -> AsyncIterator[pb.PushChunk]:
        for chunk in chunks(offset=MESSAGE):
            yield chunk

    older = asyncio.create_task(service._push(stalled(), say))
    await waiting.wait()
    said.clear()
    await service._push(another(), say)
    assert (said[0].bytes, said[-1].complete) == (MESSAGE, True)
    with pytest.raises(Superseded, match="has ended"):
        await older


async def test_a_push_whose_caller_is_gone_leaves_what_arrived(store: Store) -> None:
    service = service_of(store)
    waiting = asyncio.Event()

    async def say(_: pb.PushReply) -> None:
        pass

    async def stalled() -> AsyncIterator[pb.PushChunk]:
        for chunk in chunks(stop=MESSAGE):
            yield chunk
        waiting.set()
        await asyncio.Event().wait()

    push = asyncio.create_task(service._push(stalled(), say))
    await waiting.wait()
    push.cancel()
    with pytest.raises(asyncio.CancelledError):
        await push
    assert store.held(DIGEST) == MESSAGE


async def test_a_push_must_name_what_it_brings(stub: ArtifactsAsyncStub) -> None:
    with pytest.raises(TiermeshError, match="is not a digest"):
        await push(stub, iter([pb.PushChunk(data=b"x")]))
    with pytest.raises(TiermeshError, match="an empty push"):
        await push(stub, iter([]))


async def test_stat_has_a_limit(stub: ArtifactsAsyncStub) -> None:
    many = [DIGEST] * (limits.ARTIFACTS_PER_ASSIGNMENT + 1)
    with pytest.raises(grpc.aio.AioRpcError, match="requested at once"):
        await stub.Stat(pb.StatRequest(digests=many))


async def test_what_is_held_is_told_with_what_it_is_for_and_freed_when_asked(
    stub: ArtifactsAsyncStub, store: Store
) -> None:
    needed, spare = put(store, b"needed"), put(store, b"spare")
    await stub.Stat(pb.StatRequest(digests=[needed.digest], keep_for="a test", generation=1))
    told = await stub.Collect(pb.CollectRequest())
    assert {a.digest: a.needed_for for a in told.artifacts} == {
        needed.digest: "coming for a test",
        spare.digest: "",
    }
    assert (told.freed_bytes, store.digests()) == (0, {needed.digest, spare.digest})
    freed = await stub.Collect(pb.CollectRequest(free=True))
    assert [a.digest for a in freed.artifacts if a.freed] == [spare.digest]
    assert (freed.freed_bytes, store.digests()) == (5, {needed.digest})
