"""Agents as processes of their own, and a coordinator that comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

import pytest

from coordinator.mesh import Mesh
from coordinator.variants import Ladders
from tests.commands import Command, Commands
from tests.fetched import VARIANTS
from tiermesh import PROTOCOL_VERSION, wire
from tiermesh.v1 import device_pb2, device_pb2_grpc


class Agent:
    """An agent that can be started again on its state folder."""

    def __init__(self, commands: Commands, folder: Path, tier: str) -> None:
        self.folder = folder
        self.name = folder.name
        self.tier = tier
        self.port = wire.free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._commands = commands

    async def start(self, *more: object) -> Command:
        """Start it, whether it gets far or not."""
        words = ["--no-announce", "--state", self.folder, "--name", self.name, "--tier", self.tier]
        words += ["--port", self.port, "--threads", 1, "--price", 0.01]
        return await self._commands.start("agent.cli", "run", *words, *more)

    async def describe(self) -> device_pb2.DescribeReply:
        """What it says of itself, once it answers."""
        async with wire.channel(wire.LOOPBACK, self.address, wire.ANY_AGENT) as channel:
            ask = device_pb2.DescribeRequest(protocol_version=PROTOCOL_VERSION)
            stub = device_pb2_grpc.DeviceStub(channel)
            return await stub.Describe(ask, wait_for_ready=True, timeout=30)


@pytest.fixture
async def commands() -> AsyncIterator[Commands]:
    made = Commands()
    yield made
    await made.close()


@pytest.fixture
def new_agent(commands: Commands, tmp_path: Path) -> Callable[..., Agent]:
    return lambda name="cam-1", tier="edge": Agent(commands, tmp_path / name, tier)


@pytest.fixture
def coordinator(
    tmp_path: Path,
) -> Callable[..., contextlib.AbstractAsyncContextManager[Mesh]]:
    """Opens a mesh of some agents; when its context ends, there is no coordinator any more."""

    @contextlib.asynccontextmanager
    async def opened(*agents: Agent, variants: Path = VARIANTS) -> AsyncGenerator[Mesh]:
        home = tmp_path / "home"
        ladders = await asyncio.to_thread(Ladders.open, variants, home)
        async with Mesh.open(tmp_path / "coordinator", ladders=ladders, home=home) as mesh:
            addresses = [agent.address for agent in agents]
            await mesh.discover(addresses, expect=len(agents), browse=False, timeout_s=30.0)
            yield mesh

    return opened
