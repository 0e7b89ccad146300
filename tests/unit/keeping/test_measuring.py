"""Load and drift of a workflow from samples: what counts, what is held back, and against what it is compared."""

from __future__ import annotations

import pytest

from coordinator.keeping.measuring import Measuring
from tiermesh.documents.plan import Cost, Lane, MadeFor, Plan, Predicted, Replica, Solver
from tiermesh.documents.problem import (
    BatchTime,
    Problem,
    ProblemDevice,
    ProblemProfile,
    ProblemStage,
)
from tiermesh.v1 import telemetry_pb2 as pb

KEY = ("detect", "v", "hub-1")
PROBLEM = Problem(
    name="read",
    tiers=["hub"],
    devices=[ProblemDevice(name="hub-1", tier="hub")],
    stages=[
        ProblemStage(name="photos", kind="source", rate_rps=10.0),
        ProblemStage(name="detect", kind="model", variants=["v"]),
    ],
    edges=[],
    profiles=[
        ProblemProfile(
            stage="detect",
            variant="v",
            device="hub-1",
            batches=[BatchTime(batch_size=1, mean=0.05)],
        )
    ],
)
PLAN = Plan(
    workflow="read",
    made_for=MadeFor(problem=PROBLEM.digest),
    solver=Solver(
        name="hand",
        status="ok",
        termination="heuristic",
        objective=0.0,
        bound=None,
        gap=None,
        seconds=0.0,
    ),
    cost=Cost(compute_per_hour=0.0, network_per_hour=0.0, total_per_hour=0.0),
    predicted=Predicted(throughput_rps=10.0, latency_ms={"p95": 100.0}),
    replicas=[
        Replica(id="detect@hub-1/v", stage="detect", variant="v", device="hub-1", rate_rps=10.0)
    ],
    lanes=[Lane(share=1.0, path={"detect": "detect@hub-1/v"})],
)


def measuring(corrections=None):
    return Measuring(PROBLEM, corrections or {}, PLAN, "run-1", 3)


def source(at, accepted, *, run="run-1", stage="photos", in_flight=1, finished=False):
    said = pb.SourceSample(
        workflow="read",
        stage=stage,
        run=run,
        accepted=accepted,
        in_flight=in_flight,
        finished=finished,
    )
    return pb.Sample(at=at, sources=[said])


def served(at, batches, mean, *, generation=3):
    said = pb.ReplicaSample(
        workflow="read",
        generation=generation,
        replica="detect@hub-1/v",
        batches=batches,
        batch_sizes={1: batches},
        batch_seconds={1: batches * mean},
    )
    return pb.Sample(at=at, replicas=[said])


def offer(on, rate, seconds=10, device="cam-1", **more):
    for at in range(seconds + 1):
        on.take(device, source(float(at), int(rate * at), **more))
    return on


def test_arrivals_of_all_devices_of_a_source_add_up():
    on = offer(offer(measuring(), 6.0), 9.0, device="cam-2")
    assert on.offered_rps() == pytest.approx(15.0)
    assert on.load() == pytest.approx(1.5)


def test_requests_that_enter_at_two_sources_count_once():
    on = offer(offer(measuring(), 10.0), 10.0, stage="sound")
    assert on.load() == pytest.approx(1.0)


def test_nothing_is_told_before_a_window_has_passed_or_of_another_run():
    assert measuring().load() is None
    assert offer(measuring(), 10.0, seconds=1).load() is None
    assert offer(measuring(), 10.0, run="run-0").load() is None


def test_a_source_that_is_finished_has_no_load():
    assert offer(measuring(), 0.0, finished=True).load() is None


def test_sources_that_are_held_back_do_not_say_that_the_load_is_low():
    assert offer(measuring(), 3.0).load() == pytest.approx(0.3)
    assert offer(measuring(), 3.0, in_flight=400).load() is None
    assert offer(measuring(), 20.0, in_flight=400).load() == pytest.approx(2.0)


def test_a_worker_that_begins_again_is_not_a_negative_load():
    on = offer(measuring(), 10.0)
    on.take("cam-1", source(11.0, 5))
    assert on.load() is None


def test_what_waits_to_be_accepted_is_offered_too():
    on = measuring()
    for at in range(11):
        one = source(float(at), 4 * at)
        one.sources[0].waiting = 6 * at
        on.take("cam-1", one)
    assert on.load() == pytest.approx(1.0)


def test_an_agent_that_starts_again_under_a_clock_that_was_set_back_is_measured_on():
    on = measuring()
    for at in [*range(4_000, 4_010), *range(10)]:
        on.take("cam-1", source(float(at), 10 * at if at > 10 else 40_100 + 10 * at))
        on.take("hub-1", served(float(at), 10 * at, 0.1))
    assert on.load() == pytest.approx(1.0)
    (drift,) = on.drifts().values()
    assert drift.overall is not None
    assert drift.overall.ratio == pytest.approx(2.0, rel=0.05)


def drifted(factor, corrections=None, seconds=40):
    on = measuring(corrections)
    for at in range(seconds):
        on.take("hub-1", served(float(at), 10 * at, 0.05 * factor))
    return on


def test_device_time_is_compared_with_the_profile():
    on = drifted(2.0)
    found = on.drifts()
    assert found[KEY].overall.ratio == pytest.approx(2.0)
    assert on.ratios(found)["detect@hub-1/v"] == pytest.approx(2.0)


def test_what_was_planned_with_corrected_times_has_not_drifted():
    corrections = drifted(2.0).drifts()
    same = drifted(2.0, corrections)
    assert same.ratios(same.drifts())["detect@hub-1/v"] == pytest.approx(1.0)
    slower = drifted(3.0, corrections)
    assert slower.ratios(slower.drifts())["detect@hub-1/v"] == pytest.approx(1.5)


def test_few_batches_and_another_generation_tell_nothing():
    on = measuring()
    on.take("hub-1", served(0.0, 0, 0.1))
    on.take("hub-1", served(2.0, 5, 0.1))
    on.take("hub-1", served(4.0, 500, 0.1, generation=2))
    assert on.drifts() == {}
