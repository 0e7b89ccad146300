"""A worker's figures: one message from the worker through its agent, which adds only what it knows itself."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from agent.serving import control
from agent.serving.supervisor import _Process
from agent.serving.worker_figures import worker_figures
from tests.simulation.serving.mesh import SimMesh
from tests.simulation.serving.test_mesh import CHAIN, assign, finished, serve
from tiermesh import histogram


@pytest.fixture(scope="module")
def flows():
    """The flows of three devices that have served 40 requests."""
    mesh = SimMesh(5, "abc", {})
    serve(mesh, assign(CHAIN, [(1.0, "abca", "----")], "abc", count=40, rate=40.0))
    mesh.run(lambda: finished(mesh), 30.0)
    return {name: (device.flow, device.now) for name, device in mesh.devices.items()}


def figures_of(flows, device):
    flow, now = flows[device]
    return worker_figures({"w": flow}, now)


def test_a_source_and_its_sink_say_the_same_of_what_ended(flows):
    figures = figures_of(flows, "a")
    (source,), (sink,) = figures.sources, figures.sinks
    assert (source.workflow, source.accepted, source.confirmed, source.in_flight) == (
        "w",
        40,
        40,
        0,
    )
    assert (sink.stage, sink.results, sink.errors) == ("out", 40, 0)
    assert source.finished
    run = source.windows[-1]
    assert (run.seconds, run.ended, run.failed) == (0.0, 40, 0)


def test_latencies_are_those_of_the_ledger(flows):
    flow, _ = flows["a"]
    (source,) = figures_of(flows, "a").sources
    kept = [seconds for _, seconds in flow.sources.by_key["photos"].ledger.latency.kept]
    assert len(kept) == 40
    assert histogram.read(source.latency) == histogram.histogram(kept)


def test_a_replica_says_how_long_its_batches_took(flows):
    (replica,) = figures_of(flows, "b").replicas
    assert (replica.requests, replica.replica) == (40, "detect@b")
    assert sum(size * n for size, n in replica.batch_sizes.items()) == replica.items
    assert histogram.read(replica.device_time).count == replica.batches
    assert 0 < sum(replica.batch_seconds.values()) <= replica.busy_seconds + 1e-6


async def heard_by_the_agent(*lines):
    """The agent's end of a worker that said these lines; and how often it was killed."""
    killed = []
    process = SimpleNamespace(kill=lambda: killed.append(True))
    reader = asyncio.StreamReader()
    end = _Process(process, reader, SimpleNamespace(), lambda _kind, _text: None)
    for line in lines:
        reader.feed_data(line)
    reader.feed_eof()
    await end._listening
    return end, len(killed)


async def test_the_agent_passes_figures_on_as_they_are(flows):
    figures = figures_of(flows, "a")
    line = control.encode(control.WorkerStats(figures.SerializeToString()))
    end, killed = await heard_by_the_agent(line)
    assert (end.figures, killed) == (figures, 0)


async def test_a_worker_whose_figures_are_no_message_is_killed_and_the_last_ones_hold(flows):
    figures = figures_of(flows, "a")
    good = control.encode(control.WorkerStats(figures.SerializeToString()))
    bad = control.encode(control.WorkerStats(b"\xff\xff\xff"))
    end, killed = await heard_by_the_agent(good, bad)
    assert (end.figures, killed) == (figures, 1)
