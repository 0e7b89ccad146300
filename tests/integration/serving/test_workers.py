"""Real workers on loopback: chains, faults, and the ledger after each."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.serving.meshes import CHAIN, Mesh, check_ledger, until


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    made = Mesh(tmp_path, ["a", "b"])
    try:
        yield made
    finally:
        await made.close()


async def test_a_chain_over_two_devices(mesh: Mesh) -> None:
    mesh.offer("a", 60)
    lane = {"photos": "a", "upper": "b", "out": "a"}
    await mesh.serve(mesh.assign(CHAIN, [(1.0, lane, {})]))
    source = lambda: mesh["a"].supervisor.stats.sources
    await until(lambda: bool(source()) and source()[0].finished, "the run finishes")
    outcomes = check_ledger(mesh["a"].results(), accepted=60)
    assert outcomes == {"result": 60}
    line = mesh["a"].results()[0]
    assert line["payload"]["text"].startswith("FILE ")
    assert source()[0].accepted == source()[0].confirmed == 60
    assert source()[0].latency.samples == 60


async def test_a_killed_worker_goes_on_where_it_was(mesh: Mesh) -> None:
    mesh.offer("a", 200)
    lane = {"photos": "a", "upper": "b", "out": "b"}
    await mesh.serve(mesh.assign(CHAIN, [(1.0, lane, {})], rate=100.0))
    for victim, results in (("b", 30), ("a", 80)):
        await until(lambda: len(mesh["b"].results()) >= results, "results come")  # noqa: B023
        pid = mesh[victim].supervisor.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    stats = mesh["a"].supervisor

    await until(lambda: any(s.finished for s in stats.stats.sources), "the run finishes")
    print(stats.stats.sources, mesh["b"].supervisor.stats.sinks, mesh["a"].events, mesh["b"].events)
    assert check_ledger(mesh["b"].results(), accepted=200) == {"result": 200}
    assert stats.restarts == 1
