"""What agents measure while they serve, and what a kept workflow does about it. Their clocks run fast."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from coordinator.fleet.lifecycle import ReplanOutcome
from coordinator.fleet.liveness import Timing
from coordinator.keeping import Keeping
from coordinator.replanning import Policy
from coordinator.replanning.causes import CauseKind
from tests.integration.coordinator.test_keeping import Kept, ended
from tiermesh import wire
from tiermesh.v1 import telemetry_pb2 as pb

QUICK = Policy(settle_s=0.2, dwell_s=0.3, urgent_dwell_s=0.1, retry_s=0.1)
PATIENT = Timing(suspect_after_s=5.0, failed_after_s=10.0, gone_after_s=1.0, hold_s=0.5)
SPEED = 20.0
RATE = 4.0
WORKFLOW = """
workflow: read
slo:
  rate: 4/s
  latency: {p95: 200 ms}
stages:
  photos: {source: files, path: signs/, rate: 4/s, devices: [cam-1], repeat: true}
  detect: {model: ocr-detect, from: photos, tiers: [hub]}
  text: {sink: jsonl, path: out/text.jsonl, from: detect, devices: [cam-1]}
"""


@pytest.fixture
def serving(fake_agent):
    """An agent that says what it would if it served: `slower` times its profile, a share of misses, `RATE` a second."""

    class Serving(fake_agent):  # pyright: ignore[reportUntypedBaseClass]
        mesh = None
        slower = 1.0
        missed = 0.0

        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            self.begun = time.monotonic()
            self.since = self.begun
            self.number = 0

        async def sample(self):
            await asyncio.sleep(0.04)
            self.number += 1
            at = SPEED * (time.monotonic() - self.begun)
            made = pb.Sample(number=self.number, at=at, generations=dict(self.generations))
            running = self.mesh.fleet.running.get("read") if self.mesh else None
            if running is not None:
                plan = self.mesh.fleet.plans[running.plan].plan
                done = int(RATE * at)
                made.figures.sources.extend(self.sources(plan, running.run, done))
                made.figures.replicas.extend(self.replicas(plan, running.generation, done))
            return made

        def sources(self, plan, run, done):
            if all(r.device != self.name for r in plan.replicas if r.stage == "photos"):
                return
            windows = [
                pb.SloWindow(seconds=s, ended=n, within={"p95": int(n * (1 - self.missed))})
                for s, n in [(s, min(done, int(s * RATE))) for s in (10, 60, 600, 3_600)]
                + [(0, done)]
            ]
            yield pb.SourceSample(
                workflow="read", stage="photos", run=run, accepted=done, windows=windows
            )

        def replicas(self, plan, generation, done):
            for replica in plan.replicas:
                if replica.device == self.name and replica.stage == "detect":
                    yield pb.ReplicaSample(
                        workflow="read",
                        generation=generation,
                        replica=replica.id,
                        batches=done,
                        batch_sizes={1: done},
                        batch_seconds={1: done * self.mean_s * self.slower},
                    )

    return Serving


@pytest.fixture
def agents(serving):
    """A camera that the source is on, and two hubs that can detect: the second is dearer."""
    return [
        serving("cam-1", price=0.01, host="a"),
        serving("hub-1", tier="hub", price=0.1, host="b"),
        serving("hub-2", tier="hub", price=0.2, host="c"),
    ]


@pytest.fixture
async def keep(open_mesh, serve, agents, tmp_path):
    """Starts the agents and keeps the workflow on them."""
    path = tmp_path / "read.yaml"
    path.write_text(WORKFLOW)

    @contextlib.asynccontextmanager
    async def kept():
        for agent in agents:
            await serve.start(agent, port=wire.free_port())
        async with open_mesh() as mesh:
            await mesh.discover([a.address for a in agents], browse=False)
            workflow = await mesh.read_workflow(path)
            await mesh.profile(workflow)
            for agent in agents:
                agent.mesh = mesh
            keeping = Keeping(mesh, [workflow], policy=QUICK, timing=PATIENT, interval_s=0.05)
            task = asyncio.create_task(keeping.run())
            try:
                yield Kept(mesh, keeping)
                assert not task.done(), task.result()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    return kept


async def test_an_idle_device_is_used_when_the_slo_is_missed_and_nothing_explains_it(keep, agents):
    async with keep() as on:
        await on.served_by("hub-1")
        agents[0].missed = 1.0
        await on.until(lambda fleet: fleet.replans["read"].reason == "slo-missed", seconds=40.0)
        agents[0].missed = 0.0
        await on.until(ended)
        replan = on.mesh.fleet.replans["read"]
        assert replan.outcome is ReplanOutcome.REPLACED, replan
        assert "missed p95 0.2 s" in replan.why
        assert on.uses(on.mesh.fleet) == {"cam-1", "hub-2"}


async def test_the_prediction_is_corrected_by_what_serving_measures_and_the_cause_is_named(
    keep, agents
):
    """A third slower: it matters to the prediction, and not to the SLO, so that nothing is rolled out."""
    async with keep() as on:
        await on.served_by("hub-1")
        agents[1].slower = 1.35
        await on.until(lambda fleet: "read" in fleet.expected, seconds=40.0)
        expected = on.mesh.fleet.expected["read"]
        assert expected.generation == 1
        promised = on.mesh.fleet.plans[on.mesh.fleet.running["read"].plan].plan.predicted
        assert expected.latency_ms["p50"] > 1.2 * promised.latency_ms["p50"]
        assert "detect@hub-1" in expected.text
        named = [(cause.kind, cause.subject) for cause in on.keeping.causes("read")]
        assert (CauseKind.DEVICE_SLOWER, "hub-1") in named
        assert len(await on.told("replan-ended")) == 1


async def test_a_device_that_was_considered_and_is_not_worth_it_is_no_reason_again(
    keep, agents, serving, serve
):
    async with keep() as on:
        await on.served_by("hub-1")
        dear = serving("hub-3", tier="hub", price=0.9, host="d")
        await serve.start(dear, port=wire.free_port())
        await on.mesh.discover([dear.address], browse=False)
        await on.until(lambda fleet: fleet.replans["read"].outcome is ReplanOutcome.KEPT)
        await asyncio.sleep(8 * QUICK.dwell_s)  # longer than the dwells of this policy so far
        reasons = [e.reason for e in await on.told("replan-ended")]
        assert reasons == ["operator", "device-returned"]
