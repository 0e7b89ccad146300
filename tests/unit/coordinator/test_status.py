"""What is shown of a run: a ledger that adds up whatever was heard when, and shares that are shares."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.fleet.events import (
    ArtifactsPushed,
    PlanMade,
    RolloutCommitted,
    RolloutPrepared,
    RolloutStarted,
)
from coordinator.fleet.state import Catalogue
from coordinator.telemetry.status import SHORTEST_S, ledger_of, status_of
from tiermesh.histogram import fill, histogram
from tiermesh.v1 import telemetry_pb2 as pb

REPLICA = "detect@hub-1/v"


# --- ledgers -------------------------------------------------------------------------------------------------------


class Device:
    """A device with a source and a sink: what it says of itself at any moment adds up."""

    def __init__(self):
        self.accepted = self.results = self.errors = self.filtered = 0
        self.on_disk = 0

    def sample(self):
        confirmed = self.results + self.errors + self.filtered
        source = pb.SourceSample(
            workflow="w",
            run="r",
            accepted=self.accepted,
            confirmed=confirmed,
            in_flight=self.accepted - confirmed,
            errors=self.errors,
            filtered=self.filtered,
        )
        sink = pb.SinkSample(workflow="w", run="r", results=self.on_disk)
        return pb.Sample(figures=pb.WorkerFigures(sources=[source], sinks=[sink]))


EVENTS = st.tuples(
    st.integers(0, 2), st.sampled_from(["accept", "result", "error", "filter", "write", "sample"])
)


@given(st.lists(EVENTS, max_size=200))
def test_the_ledger_adds_up_however_samples_and_events_interleave(happened):
    devices = [Device() for _ in range(3)]
    newest: dict[int, pb.Sample] = {}
    for number, event in happened:
        device = devices[number]
        in_flight = device.accepted - device.results - device.errors - device.filtered
        match event:
            case "accept":
                device.accepted += 1
            case "write":
                # A sink elsewhere: its counts run ahead of what the sources have heard, or behind.
                device.on_disk += 1
            case "sample":
                newest[number] = device.sample()
            case _ if in_flight:
                name = {"result": "results", "error": "errors", "filter": "filtered"}[event]
                setattr(device, name, getattr(device, name) + 1)
            case _:
                pass
        ledger = ledger_of(newest.values(), "w", "r")
        ended = ledger.results + ledger.errors + ledger.filtered
        assert ledger.accepted == ended + ledger.in_flight
        assert ended == ledger.confirmed
        assert min(ledger.results, ledger.errors, ledger.filtered, ledger.in_flight) >= 0


def sample_of(sources, sinks=()):
    return pb.Sample(figures=pb.WorkerFigures(sources=sources, sinks=sinks))


def test_the_sinks_are_compared_only_when_nothing_is_in_flight():
    source = pb.SourceSample(workflow="w", run="r", accepted=88, confirmed=85)
    sink = pb.SinkSample(workflow="w", run="r", results=87, duplicates=2)
    ledger = ledger_of([sample_of([source], [sink])], "w", "r")
    assert (ledger.results, ledger.in_flight, ledger.sinks.results) == (85, 3, 87)
    assert not ledger.balanced
    source.confirmed, sink.results = 88, 88
    assert ledger_of([sample_of([source], [sink])], "w", "r").balanced


# --- shares --------------------------------------------------------------------------------------------------------


def applied(fleet, made, *, generation=1, run="r", at=1_000.0, price=0.1):
    """A generation of `read` with one replica, on hub-1."""
    plan = made.plan(replicas=[("detect", "v", "hub-1")])
    common = {"who": "t", "workflow": "read", "generation": generation}
    return fleet(
        made.described("hub-1", price=price),
        PlanMade(at=at, who="t", workflow="read", plan=plan, inputs={}),
        RolloutStarted(
            at=at,
            plan=plan.digest,
            workflow_digest="w",
            run=run,
            purpose="apply",
            catalogue=Catalogue(),
            devices=["hub-1"],
            **common,
        ),
        *(
            step(at=at, device="hub-1", **common)
            for step in (ArtifactsPushed, RolloutPrepared, RolloutCommitted)
        ),
    )


def heard(at, *, items=0, busy=0.0, began=1.0, counted=None, workflow="read", generation=1):
    said = pb.ReplicaSample(
        workflow=workflow, generation=generation, replica=REPLICA, items=items, busy_seconds=busy
    )
    counted = at if counted is None else counted
    figures = pb.WorkerFigures(at=counted, began_at=began, replicas=[said])
    return pb.Sample(at=at, figures=figures)


@pytest.fixture
def measured(fleet, made):
    """The replica as it is shown after some samples of its device."""
    running = applied(fleet, made)

    def replica(*samples):
        (found,) = status_of("read", running, {"hub-1": samples}, {}).replicas
        return found

    return replica


def test_busy_is_between_the_moments_at_which_the_worker_read_its_counts(measured):
    # The sample is taken 0.1 s later, and what it says was read a second later.
    found = measured(
        heard(10.0, counted=9.0, busy=1.0), heard(10.1, counted=10.0, busy=1.9, items=9)
    )
    assert found.busy == pytest.approx(0.9)
    assert found.items_per_second == pytest.approx(9.0)


def test_samples_that_are_too_close_say_nothing(measured):
    close = SHORTEST_S * 0.9
    found = measured(heard(10.0, busy=1.0), heard(10.0 + close, busy=9.0, items=9))
    assert (found.busy, found.items_per_second) == (None, None)
    assert found.items == 9
    same = measured(heard(10.0, counted=9.0), heard(12.0, counted=9.0))
    assert same.busy is None, "the worker has not said anything new"


def test_counts_of_a_worker_that_was_started_again_are_not_compared_with_those_before(measured):
    # It has caught up in items by now, but not in seconds.
    found = measured(heard(10.0, items=5, busy=3.0), heard(12.0, items=6, busy=2.5, began=11.0))
    assert found.busy is None
    after = heard(13.0, items=8, busy=3.0, began=11.0)
    found = measured(
        heard(10.0, items=5, busy=3.0), heard(12.0, items=6, busy=2.5, began=11.0), after
    )
    assert found.busy == pytest.approx(0.5)
    older = measured(heard(10.0, items=5, busy=3.0, began=0.0), heard(12.0, began=0.0))
    assert older.busy is None, "an agent that does not tell is seen by its counts"


def test_another_workflow_with_a_replica_of_that_name_is_another(measured):
    found = measured(
        heard(10.0, items=100, busy=50.0, workflow="other"),
        heard(10.0, items=10, busy=1.0),
        heard(12.0, items=12, busy=2.0),
    )
    assert found.busy == pytest.approx(0.5)
    assert found.items_per_second == pytest.approx(1.0)


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 3.0),
            st.floats(0.0, 60.0),
            st.integers(0, 50),
            st.sampled_from([1.0, 2.0]),
        ),
        max_size=12,
    )
)
def test_whatever_is_heard_a_share_is_a_share(happened):
    from tests.unit.coordinator.conftest import FleetUnderTest, Made

    running, at, samples = applied(FleetUnderTest(), Made()), 5.0, list[pb.Sample]()
    for gap, busy, items, began in happened:
        at += gap
        samples.append(heard(at, items=items, busy=busy, began=began))
        (found,) = status_of("read", running, {"hub-1": samples}, {}).replicas
        assert found.busy is None or 0.0 <= found.busy <= 1.0
        assert found.items_per_second is None or found.items_per_second >= 0.0


# --- durations ---------------------------------------------------------------------------------------------------


def told(durations_s):
    message = pb.Histogram()
    fill(message, histogram(durations_s))
    return message


def test_latency_is_of_all_requests_of_two_sources_and_no_mean_of_their_percentiles(fleet, made):
    quick = pb.SourceSample(workflow="read", run="r", latency=told([0.1] * 900))
    slow = pb.SourceSample(workflow="read", run="r", latency=told([2.0] * 100))
    samples = {"hub-1": [sample_of([quick])], "hub-2": [sample_of([slow])]}
    found = status_of("read", applied(fleet, made), samples, {})
    # The mean of both p95, by requests, is 290 ms: the time of no request at all.
    assert found.latency_ms["p95"] == pytest.approx(2_000, rel=0.011)
    assert found.latency_ms["p90"] == pytest.approx(100, rel=0.011)
    assert found.latency.count == 1_000
    shown = msgspec.json.decode(msgspec.json.encode(found))
    assert sum(shown["latency"]["counts"]) == 1_000, "others may merge it further"


def test_device_time_and_mean_batch_are_of_what_the_replica_says(measured):
    sample = heard(10.0, items=30)
    said = sample.figures.replicas[0]
    said.batches = 10
    said.device_time.CopyFrom(told([0.05] * 19 + [0.4]))
    found = measured(sample)
    assert found.device_time_p95_ms == pytest.approx(50, rel=0.011)
    assert found.mean_batch == 3.0
    assert measured(heard(10.0)).device_time_p95_ms is None


def test_a_device_that_tells_nonsense_of_durations_is_told_of_for_the_rest(measured):
    sample = heard(10.0, items=7)
    sample.figures.replicas[0].device_time.counts.extend([2**64 - 1] * 3)
    found = measured(sample)
    assert (found.items, found.device_time_p95_ms) == (7, None)


def test_a_sample_from_before_figures_were_one_message_is_read_as_one_without_a_worker(measured):
    """Its agent is refused by its protocol; what one would still send must not be misread."""
    replica = pb.ReplicaSample(workflow="read", generation=1, replica=REPLICA, items=7)
    inner = replica.SerializeToString()
    old = pb.Sample(number=3, at=9.0).SerializeToString() + bytes([7 << 3 | 2, len(inner)]) + inner
    found = measured(pb.Sample.FromString(old))
    assert (found.items, found.items_per_second, found.device_time_p95_ms) == (None, None, None)


# --- cost ----------------------------------------------------------------------------------------------------------


def test_a_run_costs_what_its_generations_cost_and_another_run_begins_at_nothing(fleet, made):
    applied(fleet, made, price=0.1, at=1_000.0)
    now = applied(fleet, made, price=0.4, at=1_000.0 + 7_200.0, generation=2)
    cost = status_of("read", now, {}, {}, 1_000.0 + 10_800.0).attainment.cost
    assert cost.per_hour == pytest.approx(0.4)
    # What a generation cost is counted by the prices at its end.
    assert cost.so_far_usd == pytest.approx(2 * 0.4 + 1 * 0.4)
    assert status_of("read", now, {}, {}).attainment.cost.so_far_usd is None
    again = applied(fleet, made, price=0.4, at=20_000.0, generation=3, run="s")
    assert again.running["read"].spent_usd == 0.0
