"""Pushing: only what is lacking, going on where it broke."""

import asyncio

import pytest

from coordinator.artifacts import distribution as distributing_module
from coordinator.artifacts import transfer as push_module
from coordinator.artifacts.distribution import Distribution
from coordinator.fleet.file import FleetFile
from coordinator.fleet.lifecycle import DeviceState
from coordinator.fleet.state import Description, Device, Fleet
from coordinator.sessions.channels import Channels
from tiermesh import limits
from tiermesh.errors import DigestMismatch, StorageFull, Unreachable

MESSAGE = limits.ARTIFACT_MESSAGE_BYTES


class Bringing:
    """What a coordinator brings to some fake agents."""

    def __init__(self, agents, ladders):
        devices = {agent.device: self._device(agent) for agent in agents}
        self.fleet = Fleet(devices=devices)
        self.channels = Channels()
        self.distribution = Distribution(self.channels, lambda: self.fleet, FleetFile)
        self.agents = agents
        self._ladders = ladders
        self.seen = []

    @staticmethod
    def _device(agent):
        return Device(
            id=agent.device,
            name=agent.name,
            state=DeviceState.READY,
            address=agent.address,
            device_class="class",
            seen_at=0.0,
            description=Description(
                agent_version="0.1.0",
                protocol_version=1,
                tier="edge",
                price_per_hour=0.0,
                usable_share=0.7,
                data_address=agent.data_address,
                fingerprint=agent.fingerprint,
            ),
        )

    async def __call__(self, artifacts, device="dev-1"):
        return await self.distribution.bring(
            self.fleet.devices[device],
            artifacts,
            self._ladders.path_of,
            keep_for="a test",
            generation=7,
            moved=self.seen.append,
        )


@pytest.fixture
async def pushing(serve, fake_agent, ladders, monkeypatch):
    monkeypatch.setattr(push_module, "PAUSE_S", 0.001)
    agents = await serve.start(fake_agent("dev-1"), fake_agent("dev-2"))
    bring = Bringing(agents, ladders)
    yield agents[0], bring
    await bring.channels.close()


async def test_everything_arrives_once_and_is_kept_for_what_it_is_for(pushing, ladders):
    agent, bring = pushing
    artifacts = [ladders.artifact(b"a" * 600_000), ladders.artifact(b""), ladders.artifact(b"b")]
    assert (await bring(artifacts)).sent_bytes == 600_001
    assert {a.digest for a in artifacts} == agent.store.keys()
    assert agent.kept_for == {"a test": 7}
    there = [transfer.bytes_there for transfer in bring.seen]
    assert (there[0], there[-1], bring.seen[-1].done) == (0, 600_001, 1.0)
    assert there == sorted(there)
    assert (await bring(artifacts)).sent_bytes == 0, "nothing is sent twice"


async def test_a_push_that_breaks_goes_on_where_it_stopped(pushing, ladders):
    agent, bring = pushing
    size = 16 * MESSAGE
    artifact = ladders.artifact(bytes(range(256)) * (size // 256))
    agent.break_after = [MESSAGE, 2 * MESSAGE, 0, 5 * MESSAGE]
    brought = await bring([artifact])
    assert artifact.digest in agent.store
    assert agent.pushed_bytes == size, "no byte arrives twice"
    assert brought.sent_bytes <= size + 4 * limits.ARTIFACT_CHUNK_BYTES


async def test_a_push_that_never_gets_further_ends_with_the_reason(pushing, ladders):
    agent, bring = pushing
    agent.break_after = [0] * 50
    with pytest.raises(Unreachable, match="broke 6 times at byte 0") as caught:
        await bring([ladders.artifact(b"x" * 100)])
    assert "the transfer resumes" in caught.value.fix


async def test_a_full_device_is_told_before_anything_is_sent(pushing, ladders):
    agent, bring = pushing
    agent.free_bytes, agent.reclaimable_bytes = 10, 20
    with pytest.raises(StorageFull, match="enough disk space") as caught:
        await bring([ladders.artifact(b"x" * 100)])
    assert "need 100 bytes, 10 are free, and 20 more are held by unused" in caught.value.why
    assert agent.pushed_bytes == 0


async def test_what_can_be_freed_counts_as_room(pushing, ladders):
    agent, bring = pushing
    agent.free_bytes, agent.reclaimable_bytes = 10, 90
    assert (await bring([ladders.artifact(b"x" * 100)])).sent_bytes == 100


@pytest.mark.parametrize("content", [b"shorter", b"y" * 100])
async def test_a_file_that_changed_here_is_not_sent(pushing, ladders, content):
    agent, bring = pushing
    artifact = ladders.artifact(b"x" * 100)
    ladders.path_of(artifact.digest).write_bytes(content)
    with pytest.raises(DigestMismatch, match="not as it was"):
        await bring([artifact])
    assert agent.pushed_bytes == 0


async def test_a_silent_device_ends_a_push(pushing, ladders, monkeypatch):
    agent, bring = pushing
    monkeypatch.setattr(push_module, "STALL_S", 0.05)
    monkeypatch.setattr(push_module, "BREAKS", 0)
    agent.hold["push"] = asyncio.Event()
    with pytest.raises(Unreachable) as caught:
        await bring([ladders.artifact(b"x" * 100)])
    assert "no byte moved" in caught.value.why


async def test_a_peer_of_no_use_is_not_asked_again_and_the_coordinator_sends_it(pushing, ladders):
    agent, bring = pushing
    artifact = ladders.artifact(b"x" * 100)
    await bring([artifact], "dev-2")
    assert (await bring([artifact])).sent_bytes == 100
    assert agent.calls.count("fetch") == 1


async def test_a_peer_that_is_stuck_stops_nobody(pushing, ladders, monkeypatch):
    _, bring = pushing
    monkeypatch.setattr(distributing_module, "LOOK_TIMEOUT_S", 0.05)
    stuck = bring.agents[1]
    stuck.hold["stat"] = asyncio.Event()
    assert (await bring([ladders.artifact(b"x" * 100)])).sent_bytes == 100


async def test_few_pushes_are_under_way_at_a_time(serve, fake_agent, ladders):
    agents = await serve.start(*(fake_agent(f"dev-{i}") for i in range(5)))
    bring = Bringing(agents, ladders)
    release = asyncio.Event()
    for agent in agents:
        agent.hold["push"] = release
    artifacts = [ladders.artifact(bytes([i]) * 100) for i in range(5)]
    work = [
        asyncio.ensure_future(bring([artifact], agent.device))
        for artifact, agent in zip(artifacts, agents, strict=True)
    ]

    def pushes():
        return sum(agent.calls.count("push") for agent in agents)

    while pushes() < limits.ARTIFACT_PUSHES_PER_NETWORK:
        await asyncio.sleep(0.01)
    done, _ = await asyncio.wait(work, timeout=0.1)
    assert (len(done), pushes()) == (0, limits.ARTIFACT_PUSHES_PER_NETWORK)
    release.set()
    await asyncio.gather(*work)
    assert pushes() == 5
    await bring.channels.close()
