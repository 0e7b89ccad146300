"""Pushes to a real server: whole, broken and resumed, twice, wrong, without room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import grpc.aio
import pytest

from agent.rollout.artifacts import ArtifactsService
from agent.rollout.store import Store
from tiermesh import ids, limits, wire
from tiermesh.errors import DigestMismatch, StorageFull, TiermeshError
from tiermesh.v1 import rollout_pb2 as pb
from tiermesh.v1.rollout_pb2_grpc import ArtifactsStub, add_ArtifactsServicer_to_server

if TYPE_CHECKING:
    from tiermesh.v1.rollout_pb2_grpc import ArtifactsAsyncStub

DATA = b"0123456789" * 100_000
DIGEST = ids.digest_bytes(DATA)
CHUNK = limits.ARTIFACT_CHUNK_BYTES


@pytest.fixture
async def stub(store: Store) -> AsyncIterator[ArtifactsAsyncStub]:
    server = wire.server()
    add_ArtifactsServicer_to_server(ArtifactsService(store), server)
    port = wire.bind(server, "127.0.0.1", 0)
    await server.start()
    async with wire.channel(f"127.0.0.1:{port}") as channel:
        yield ArtifactsStub(channel)
    await server.stop(None)


def chunks(data: bytes = DATA, offset: int = 0, stop: int | None = None) -> Iterator[pb.PushChunk]:
    yield pb.PushChunk(digest=DIGEST, size_bytes=len(DATA), offset=offset)
    for at in range(offset, len(data) if stop is None else stop, CHUNK):
        yield pb.PushChunk(data=data[at : at + CHUNK])


async def push(stub: ArtifactsAsyncStub, parts: Iterator[pb.PushChunk]) -> pb.PushReply:
    try:
        return await stub.Push(parts)
    except grpc.aio.AioRpcError as error:
        raise wire.raised_by(error, "the device") from None


async def test_a_broken_push_goes_on_at_what_stat_says(
    stub: ArtifactsAsyncStub, store: Store
) -> None:
    assert not (await push(stub, chunks(stop=CHUNK))).complete
    stat = await stub.Stat(pb.StatRequest(digests=[DIGEST]))
    assert (stat.held[DIGEST].bytes, stat.held[DIGEST].complete) == (CHUNK, False)
    assert stat.free_bytes > 0
    assert (await push(stub, chunks(offset=CHUNK))).complete
    assert store.path(DIGEST).read_bytes() == DATA
    assert (await push(stub, chunks())).complete
    assert (await stub.Stat(pb.StatRequest(digests=[DIGEST]))).held[DIGEST].complete


async def test_the_wrong_content_is_refused_and_forgotten(
    stub: ArtifactsAsyncStub, store: Store
) -> None:
    with pytest.raises(DigestMismatch, match="its digest is sha256:"):
        await push(stub, chunks(b"x" * len(DATA)))
    assert store.held(DIGEST) == 0


async def test_a_full_disk_is_told_before_anything_is_sent(
    stub: ArtifactsAsyncStub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "free_bytes", lambda: 10)
    with pytest.raises(StorageFull, match="10 may be used"):
        await push(stub, chunks())


async def test_a_push_under_way_bars_others_and_leaves_what_arrived(store: Store) -> None:
    service = ArtifactsService(store)
    waiting = asyncio.Event()

    async def stalled() -> AsyncIterator[pb.PushChunk]:
        for chunk in chunks(stop=CHUNK):
            yield chunk
        waiting.set()
        await asyncio.Event().wait()

    async def another() -> AsyncIterator[pb.PushChunk]:
        yield pb.PushChunk(digest=DIGEST, size_bytes=len(DATA))

    push = asyncio.create_task(service._push(stalled()))
    await waiting.wait()
    with pytest.raises(TiermeshError, match="is arriving already"):
        await service._push(another())
    push.cancel()
    await asyncio.wait([push])
    assert store.held(DIGEST) == CHUNK
    assert not (await service._push(another())).complete


async def test_a_push_must_name_what_it_brings(stub: ArtifactsAsyncStub) -> None:
    with pytest.raises(TiermeshError, match="is not a digest"):
        await push(stub, iter([pb.PushChunk(data=b"x")]))
    with pytest.raises(TiermeshError, match="an empty push"):
        await push(stub, iter([]))


async def test_stat_has_a_limit(stub: ArtifactsAsyncStub) -> None:
    many = [DIGEST] * (limits.ARTIFACTS_PER_ASSIGNMENT + 1)
    with pytest.raises(grpc.aio.AioRpcError, match="asked for at once"):
        await stub.Stat(pb.StatRequest(digests=many))
