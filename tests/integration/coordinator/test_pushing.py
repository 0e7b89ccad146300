"""Pushing: only what is lacking, going on where it broke."""

import pytest

from coordinator import pushing as push_module
from coordinator.channels import Channels
from coordinator.pushing import Pushing
from tiermesh import limits
from tiermesh.errors import DigestMismatch, StorageFull, Unreachable


@pytest.fixture
async def pushing(serve, fake_agent, ladders, monkeypatch):
    monkeypatch.setattr(push_module, "PAUSE_S", 0.001)
    (agent,) = await serve.start(fake_agent())
    channels = Channels()
    yield agent, Pushing(channels.to(agent.address), agent.name, ladders.path_of)
    await channels.close()


async def test_everything_arrives_once(pushing, ladders):
    agent, push = pushing
    artifacts = [ladders.artifact(b"a" * 600_000), ladders.artifact(b""), ladders.artifact(b"b")]
    seen = []
    assert await push.push(artifacts, lambda have, need: seen.append((have, need))) == 600_001
    assert {a.digest for a in artifacts} == agent.store.keys()
    assert seen[0] == (0, 600_001)
    assert seen[-1] == (600_001, 600_001)
    assert seen == sorted(seen)
    assert await push.push(artifacts) == 600_001, "nothing is sent twice"


async def test_a_push_that_breaks_goes_on_where_it_stopped(pushing, ladders):
    agent, push = pushing
    size = 4 * limits.ARTIFACT_CHUNK_BYTES
    artifact = ladders.artifact(bytes(range(256)) * (size // 256))
    agent.break_after = [limits.ARTIFACT_CHUNK_BYTES, 2 * limits.ARTIFACT_CHUNK_BYTES]
    await push.push([artifact])
    assert artifact.digest in agent.store
    assert agent.pushed_bytes <= 1.05 * size + 2 * limits.ARTIFACT_CHUNK_BYTES


async def test_a_push_that_never_gets_further_ends_with_the_reason(pushing, ladders):
    agent, push = pushing
    agent.break_after = [0] * 50
    with pytest.raises(Unreachable, match="broke") as caught:
        await push.push([ladders.artifact(b"x" * 100)])
    assert "it goes on from there" in caught.value.fix


async def test_a_full_device_is_told_before_anything_is_sent(pushing, ladders):
    agent, push = pushing
    agent.free_bytes = 10
    with pytest.raises(StorageFull, match="no room"):
        await push.push([ladders.artifact(b"x" * 100)])
    assert agent.pushed_bytes == 0


async def test_a_file_that_changed_here_is_not_sent(pushing, ladders):
    agent, push = pushing
    artifact = ladders.artifact(b"x" * 100)
    ladders.path_of(artifact.digest).write_bytes(b"shorter")
    with pytest.raises(DigestMismatch, match="not as it was"):
        await push.push([artifact])
    assert agent.pushed_bytes == 0


async def test_a_file_with_other_bytes_is_refused_by_the_device(pushing, ladders):
    agent, push = pushing
    artifact = ladders.artifact(b"x" * 100)
    ladders.path_of(artifact.digest).write_bytes(b"y" * 100)
    with pytest.raises(DigestMismatch, match="other bytes"):
        await push.push([artifact])
    assert artifact.digest not in agent.store


async def test_a_silent_device_ends_a_push(pushing, ladders, monkeypatch):
    import asyncio

    agent, push = pushing
    monkeypatch.setattr(push_module, "STALL_S", 0.05)
    monkeypatch.setattr(push_module, "BREAKS", 0)
    agent.hold["push"] = asyncio.Event()
    with pytest.raises(Unreachable) as caught:
        await push.push([ladders.artifact(b"x" * 100)])
    assert "no byte moved" in caught.value.why
