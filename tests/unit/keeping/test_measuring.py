"""Load and drift of a workflow from samples: what counts, what is held back, and against what it is compared."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from coordinator.keeping.load_monitor import LoadMonitor
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
        Replica(
            id="detect@hub-1/v", stage="detect", variant="v", device="hub-1", items_per_second=10.0
        )
    ],
    lanes=[Lane(share=1.0, path={"detect": "detect@hub-1/v"})],
)


def measuring(corrections=None):
    return LoadMonitor(PROBLEM, corrections or {}, PLAN, "run-1", 3)


def source(at, accepted, *, run="run-1", stage="photos", in_flight=1, finished=False):
    said = pb.SourceSample(
        workflow="read",
        stage=stage,
        run=run,
        accepted=accepted,
        in_flight=in_flight,
        finished=finished,
    )
    return pb.Sample(at=at, figures=pb.WorkerFigures(sources=[said]))


def served(at, batches, mean, *, generation=3):
    said = pb.ReplicaSample(
        workflow="read",
        generation=generation,
        replica="detect@hub-1/v",
        batches=batches,
        batch_sizes={1: batches},
        batch_seconds={1: batches * mean},
    )
    return pb.Sample(at=at, figures=pb.WorkerFigures(replicas=[said]))


def offer(on, rate, seconds=10, device="cam-1", **more):
    for at in range(seconds + 1):
        on.take(device, source(float(at), int(rate * at), **more))
    return on


def at_cameras(**rates):
    """The plan with the source on some devices, each with a rate."""
    replicas = [
        Replica(id=f"photos@{device}", stage="photos", device=device, items_per_second=rate)
        for device, rate in rates.items()
    ]
    return replace(PLAN, replicas=[*PLAN.replicas, *replicas])


def test_arrivals_of_all_devices_of_a_source_add_up():
    on = LoadMonitor(PROBLEM, {}, at_cameras(**{"cam-1": 4.0, "cam-2": 6.0}), "run-1", 3)
    load = offer(offer(on, 6.0), 9.0, device="cam-2").load()
    assert load.rate.rps == pytest.approx(15.0)
    assert load.ratio == pytest.approx(1.5)
    assert not offer(offer(on, 4.0), 6.0, device="cam-2").load().changed


def test_a_device_that_is_silent_does_not_count_as_less_load():
    on = LoadMonitor(PROBLEM, {}, at_cameras(**{"cam-1": 5.0, "cam-2": 5.0}), "run-1", 3)
    load = offer(on, 5.0, seconds=600).load()
    assert load.ratio == pytest.approx(1.0)
    assert not load.changed


def test_requests_that_enter_at_two_sources_count_once():
    on = offer(offer(measuring(), 10.0), 10.0, stage="sound")
    assert on.load().ratio == pytest.approx(1.0)


def test_nothing_is_told_before_a_window_has_passed_or_of_another_run():
    assert measuring().load() is None
    assert offer(measuring(), 10.0, seconds=0).load() is None
    assert offer(measuring(), 10.0, run="run-0").load() is None


def test_a_source_that_is_finished_has_no_load():
    assert offer(measuring(), 0.0, finished=True).load() is None


def test_sources_that_are_held_back_do_not_say_that_the_load_is_low():
    less = offer(measuring(), 3.0, seconds=60).load()
    assert less.changed
    assert less.ratio == pytest.approx(0.3)
    assert not offer(measuring(), 3.0, seconds=600, in_flight=400).load().changed
    more = offer(measuring(), 20.0, in_flight=400).load()
    assert more.changed
    assert more.ratio == pytest.approx(2.0)


def test_less_load_than_is_promised_in_any_case_is_no_change():
    on = offer(measuring(), 3.0, seconds=60)
    assert on.load(8.0).changed
    assert not on.load(9.0).changed


def test_a_worker_that_begins_again_is_not_a_negative_load():
    on = offer(measuring(), 10.0)
    on.take("cam-1", source(11.0, 5))
    for at in range(12, 22):
        on.take("cam-1", source(float(at), 5 + 10 * (at - 11)))
    assert on.load().ratio == pytest.approx(1.0)


def test_what_waits_to_be_accepted_is_offered_too():
    on = measuring()
    for at in range(11):
        one = source(float(at), 4 * at)
        one.figures.sources[0].waiting = 6 * at
        on.take("cam-1", one)
    assert on.load().ratio == pytest.approx(1.0)


def test_an_agent_that_starts_again_under_a_clock_that_was_set_back_is_measured_on():
    on = measuring()
    for at in [*range(4_000, 4_010), *range(10)]:
        on.take("cam-1", source(float(at), 10 * at if at > 10 else 40_100 + 10 * at))
        on.take("hub-1", served(float(at), 10 * at, 0.1))
    assert on.load().ratio == pytest.approx(1.0)
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
    assert on.ratios()["detect@hub-1/v"].ratio == pytest.approx(2.0)


def test_what_was_planned_with_corrected_times_has_not_drifted():
    corrections = drifted(2.0).drifts()
    same = drifted(2.0, corrections)
    assert same.ratios()["detect@hub-1/v"].ratio == pytest.approx(1.0)
    slower = drifted(3.0, corrections)
    assert slower.ratios()["detect@hub-1/v"].ratio == pytest.approx(1.5)


def test_few_batches_and_another_generation_tell_nothing():
    on = measuring()
    on.take("hub-1", served(0.0, 0, 0.1))
    on.take("hub-1", served(2.0, 5, 0.1))
    on.take("hub-1", served(4.0, 500, 0.1, generation=2))
    assert on.drifts() == {}


def test_the_first_correction_comes_within_twenty_batches():
    on = measuring()
    for at in range(11):
        on.take("hub-1", served(float(at), at, 0.1))
    (found,) = on.drifts().values()
    assert found.overall.batches <= 20
    assert found.overall.differs()


def test_what_has_changed_of_late_is_not_mixed_with_what_was_before():
    on, seconds = measuring(), 0.0
    for at in range(900):
        seconds += 0.05 * (2.0 if at > 800 else 1.0)
        said = pb.ReplicaSample(
            workflow="read",
            generation=3,
            replica="detect@hub-1/v",
            batches=at,
            batch_sizes={1: at},
            batch_seconds={1: seconds},
        )
        on.take("hub-1", pb.Sample(at=float(at), figures=pb.WorkerFigures(replicas=[said])))
    assert on.drifts()[KEY].overall.ratio == pytest.approx(2.0, rel=0.05)
    assert on.ratios()["detect@hub-1/v"].sure == pytest.approx(2.0, rel=0.1)


def test_the_more_replicas_are_looked_at_the_surer_each_must_be():
    def spread(replicas):
        plan = replace(PLAN, replicas=[PLAN.replicas[0]] * replicas)
        on = LoadMonitor(PROBLEM, {}, plan, "run-1", 3)
        for at in range(40):
            on.take("hub-1", served(float(at), 10 * at + at % 3, 0.05))
        ratio = on.ratios()["detect@hub-1/v"]
        return ratio.high - ratio.low

    assert spread(1) < spread(50)


def test_a_backlog_is_what_would_have_ended_were_all_as_planned():
    on = offer(measuring(), 10.0, in_flight=2)
    assert on.backlog == 0.0
    assert offer(measuring(), 10.0, in_flight=122).backlog == pytest.approx(120.0)
