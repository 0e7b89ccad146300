"""A plan that falls short of what is asked, on real agents and workers: its source accepts what the plan carries."""

from __future__ import annotations

import asyncio
import json

import pytest
from msgspec.structs import replace

from coordinator.cli.replicas import ledger_line
from coordinator.fleet.lifecycle import RolloutOutcome
from coordinator.mesh import Mesh
from coordinator.telemetry.status import latency_of, ledger_of
from coordinator.variants import Ladders
from tests.agents import AgentProcess, put_words, write_workflow

MADE, CARRIED, DEADLINE_S, LISTENED_S = 40.0, 8.0, 4.0, 8.0
WORKFLOW = f"""
workflow: shout
slo: {{rate: {MADE}/s, deadline: {DEADLINE_S} s}}
stages:
  files: {{source: files, path: in, rate: {MADE}/s, repeat: true, devices: [cam-1]}}
  upper: {{map: code, from: files, devices: [hub-1]}}
  out:   {{sink: jsonl, path: out/text.jsonl, from: upper, devices: [cam-1]}}
"""
SLOW = """
import time

class Upper:
    def __init__(self, files, options):
        pass

    def apply(self, payload):
        time.sleep(0.1)
        return {"text": bytes(payload["image"]).decode().upper()}
"""


@pytest.fixture
async def agents(tmp_path):
    put_words(tmp_path / "cam-1" / "data" / "in", 20)
    names = {"cam-1": "edge", "hub-1": "hub"}
    started = [AgentProcess(tmp_path / name, name, tier) for name, tier in names.items()]
    for agent in started:
        await agent.start()
    yield started
    await asyncio.gather(*(agent.stop() for agent in started))


@pytest.fixture
async def mesh(ladder_folder, agents):
    home = ladder_folder / "home"
    ladders = await asyncio.to_thread(Ladders.open, ladder_folder / "variants", home)
    async with Mesh.open(ladder_folder / "state", ladders=ladders, home=home) as opened:
        await opened.discover([a.address for a in agents], expect=2, browse=False, timeout_s=30.0)
        yield opened


async def listened(mesh, seconds):
    """The last samples of all devices, once so many seconds of samples have come."""
    newest, first = {}, None
    async for observed in mesh.watch(interval_s=0.1):
        if observed.sample is None:
            continue
        newest[observed.device.id] = observed.sample
        if observed.device.name == "cam-1":
            first = first or observed.sample.at
            if observed.sample.at - first >= seconds:
                return list(newest.values())
    raise AssertionError


@pytest.mark.slow
async def test_what_a_short_plan_accepts_meets_its_deadline_and_the_rest_waits_and_is_counted(
    mesh, agents, ladder_folder
):
    path = write_workflow(ladder_folder, WORKFLOW)
    (ladder_folder / "code" / "upper.py").write_text(SLOW)
    plan = await mesh.plan(await mesh.read_workflow(path))
    short = replace(plan, predicted=replace(plan.predicted, throughput_rps=CARRIED))
    await mesh.plan_made(short)
    assert (await mesh.apply(short, run="one")).outcome is RolloutOutcome.COMMITTED

    samples = await listened(mesh, LISTENED_S)
    ledger = ledger_of(samples, "shout", "one")
    assert ledger.accepted == pytest.approx(CARRIED * LISTENED_S, rel=0.35)
    assert ledger.accepted + ledger.waiting == pytest.approx(MADE * LISTENED_S, rel=0.25)
    assert ledger.in_flight <= CARRIED * DEADLINE_S / 2
    assert f"waiting to be accepted {ledger.waiting}" in ledger_line(ledger)
    sources = [s for sample in samples for s in sample.figures.sources]
    assert latency_of(sources).percentiles_ms()["p95"] < 1e3 * DEADLINE_S / 2
    told = [e.event.text for e in await mesh.history(kinds=["device-noted"])]
    assert any("40 requests a second, and the plan carries 8" in text for text in told), told

    lines = (agents[0].folder / "data" / "out" / "text.jsonl").read_text().splitlines()
    assert {json.loads(line)["outcome"] for line in lines} == {"result"}
