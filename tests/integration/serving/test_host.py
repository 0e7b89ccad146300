"""The loop of a worker, with a flow in it and nothing around."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.rollout.store import Store
from agent.serving.endpoint_io.data_folder import DataFolder
from agent.serving.flow import Flow
from agent.serving.host import TICK_S, Host
from tiermesh.wire import LOOPBACK


class Ticking(Flow):
    """Counts its ticks."""

    ticks = 0

    def tick(self, now: float) -> None:
        self.ticks += 1
        super().tick(now)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    made = Host(
        device="a",
        epoch=1,
        data=DataFolder(tmp_path / "data"),
        state=tmp_path / "state",
        artifacts=Store(tmp_path / "store"),
        threads=1,
        slowdown=1.0,
        credentials=LOOPBACK,
        notice=lambda kind, text: None,
    )
    yield made
    await made.close()


async def test_events_that_come_faster_than_ticks_do_not_put_them_off(host: Host) -> None:
    flow = Ticking("w", "a", 1)
    host.flows["w"] = flow
    async with asyncio.timeout(5):
        while flow.ticks < 3:
            host.changed()
            await asyncio.sleep(TICK_S / 10)
