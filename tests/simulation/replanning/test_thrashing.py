"""Devices that flap and loads that oscillate, for an hour of simulated time, at many periods, with the real planner.

However fast things change, replans must be few; and once they are calm, the right plan must be what runs.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache

import pytest

from coordinator.fleet.lifecycle import ReplanOutcome
from coordinator.fleet.liveness import Timing, Vigil, added, heard, passed
from coordinator.planning import Options
from coordinator.replanning import Policy, ReplanReason, State, decide, observe
from coordinator.replanning.current_problem import asked_rate, with_rate, with_running
from coordinator.replanning.load import LoadTest
from coordinator.replanning.search import search
from coordinator.replanning.state import (
    Asked,
    DeviceMoved,
    LoadMeasured,
    ReplanBegun,
    ReplanFinished,
)
from coordinator.replanning.switching import worth
from tiermesh.documents.problem import (
    BatchTime,
    Problem,
    ProblemDevice,
    ProblemEdge,
    ProblemProfile,
    ProblemStage,
)

STEP_S = 0.25
MEASURE_S = 2.0
REPLAN_S = 1.5
"""What solving and rolling out take."""
HOUR_S = 3_600.0
POLICY = Policy()
TIMING = Timing()
RATE = 4.0
HUBS = {"hub-1": (0.10, 0.10), "hub-2": (0.20, 0.08), "hub-3": (0.30, 0.06)}
"""Price per hour and seconds per request: the cheap one is the slow one."""


def problem_of(hubs, rate=RATE):
    devices = [ProblemDevice(name="cam-1", tier="edge", price_per_hour=0.01)]
    devices += [
        ProblemDevice(name=h, tier="hub", price_per_hour=HUBS[h][0], usable_share=0.7)
        for h in sorted(hubs)
    ]
    return Problem(
        name="read",
        tiers=["edge", "hub"],
        devices=devices,
        stages=[
            ProblemStage(name="photos", kind="source", rate_rps=rate, pinned={"cam-1": 1.0}),
            ProblemStage(name="detect", kind="model", variants=["v"]),
            ProblemStage(name="text", kind="sink", devices=["cam-1"]),
        ],
        edges=[
            ProblemEdge(source="photos", target="detect"),
            ProblemEdge(source="detect", target="text"),
        ],
        profiles=[
            ProblemProfile(
                stage="detect",
                variant="v",
                device=h,
                batches=[BatchTime(batch_size=1, mean=HUBS[h][1])],
            )
            for h in sorted(hubs)
        ],
    )


@lru_cache(maxsize=4_096)
def _search(hubs, rate, running):
    problem = problem_of(hubs, rate)
    plan = _plans.get(running)
    found = search(with_running(problem, plan, POLICY), plan, Options(), POLICY)
    if found.plan is not None:
        _plans[found.plan.digest] = found.plan
    return found


_plans = {}


class World:
    """A mesh whose devices breathe as `up(device, time)` says, under the load `load(time)` in requests a second."""

    def __init__(self, up=lambda _device, _time: True, load=lambda _time: RATE):
        self.up, self.load = up, load
        self.now = 0.0
        self.vigil = Vigil(timing=TIMING)
        for hub in HUBS:
            self.vigil = added(self.vigil, hub)
        self.ready = set(HUBS)
        self.state = observe(Asked(0.0, "it does not run yet"), State(policy=POLICY))
        self.running, self.planned_for = None, RATE
        self.test = LoadTest(RATE, POLICY.false_alarm_s)
        self.offered = 0.0
        self.under_way = None
        self.ended = []

    def live(self, seconds):
        until = self.now + seconds
        while self.now < until:
            self.now += STEP_S
            self._listen()
            self._offer()
            if self.now % MEASURE_S < STEP_S and self.running is not None and not self.under_way:
                self.state = observe(LoadMeasured(self.now, load=self.test.load()), self.state)
            self._replan()
        return self

    def _offer(self):
        """Requests come evenly, and are counted as whole ones."""
        before = math.floor(self.offered)
        self.offered += self.load(self.now) * STEP_S
        self.test.add(math.floor(self.offered) - before, STEP_S)

    def _listen(self):
        for hub in HUBS:
            if self.up(hub, self.now):
                self.vigil = heard(self.vigil, hub)
        self.vigil, moved = passed(self.vigil, self.now)
        for m in moved:
            state = m.standing.state
            self.ready = self.ready | {m.device} if state == "ready" else self.ready - {m.device}
            self.state = observe(DeviceMoved(self.now, m.device, state, m.why), self.state)

    def _replan(self):
        if self.under_way is not None:
            begun, due, rate, found = self.under_way
            if self.now < begun + REPLAN_S:
                return
            self._end(due, rate, found)
        due = decide(self.state, self.now)
        if due is not None:
            self.state = observe(ReplanBegun(self.now, due.reason), self.state)
            rate = self.planned_for
            if self.state.load is not None and self.state.load.changed:
                rate = round(self.state.load.planning_rps(POLICY.headroom), 1)
            running = self.running.digest if self.running else None
            self.under_way = (self.now, due, rate, _search(frozenset(self.ready), rate, running))

    def _end(self, due, rate, found):
        self.under_way = None
        outcome = ReplanOutcome.INFEASIBLE
        if found.plan is not None:
            used = {r.device for r in found.plan.replicas} - {"cam-1"}
            outcome = ReplanOutcome.KEPT
            if found.verdict.replace and not all(self.up(d, self.now) for d in used):
                outcome = ReplanOutcome.FAILED
            elif found.verdict.replace:
                outcome = ReplanOutcome.DEGRADED if found.degraded else ReplanOutcome.REPLACED
                self.running = found.plan
            if outcome is not ReplanOutcome.FAILED:
                self.planned_for = rate
                self.test = LoadTest(rate, POLICY.false_alarm_s, past=self.test.counted())
        used = frozenset(r.device for r in self.running.replicas) if self.running else frozenset()
        stages = frozenset({used}) if used else frozenset()
        self.state = observe(ReplanFinished(self.now, outcome, used, stages), self.state)
        self.ended.append((self.now, due.reason, outcome))

    def rollouts(self):
        done = (ReplanOutcome.REPLACED, ReplanOutcome.DEGRADED, ReplanOutcome.FAILED)
        return [e for e in self.ended if e[2] in done]

    def check_right(self, rate):
        """What runs serves the load, and no other plan is worth the change."""
        problem = problem_of(HUBS, rate)
        best = search(problem, None, Options(), POLICY).plan
        assert not worth(problem, self.running, best, POLICY).replace, self.ended[-5:]


def calm_s():
    return POLICY.dwell_max_s + TIMING.hold_max_s + 60.0


PERIODS_S = [1.0, 2.5, 15.0, 60.0, 117.0, 240.0, 1_300.0]


@pytest.mark.parametrize("period_s", PERIODS_S)
def test_a_flapping_device_moves_the_mesh_a_few_times_and_not_with_each_flap(period_s):
    def up(hub, now):
        return hub != "hub-1" or now > HOUR_S or now % period_s < period_s / 2

    world = World(up=up).live(HOUR_S)
    assert len(world.ended) <= 22, world.ended
    world.live(calm_s())
    assert {r.device for r in world.running.replicas} == {"cam-1", "hub-1"}
    world.check_right(RATE)


@pytest.mark.parametrize("period_s", PERIODS_S)
def test_an_oscillating_load_moves_the_mesh_a_few_times_and_not_with_each_swing(period_s):
    def load(now):
        return RATE if now > HOUR_S or now % period_s < period_s / 2 else 2 * RATE

    world = World(load=load).live(HOUR_S)
    assert len(world.ended) <= 13, world.ended
    world.live(calm_s())
    world.check_right(world.planned_for)
    assert 0.65 * world.planned_for <= RATE <= 1.3 * world.planned_for


@pytest.mark.parametrize("seed", range(4))
def test_chaos_of_devices_and_load_is_met_with_few_replans_and_ends_right(seed):
    draw = random.Random(seed)
    periods = {hub: draw.uniform(2.0, 300.0) for hub in HUBS}
    phases = {hub: draw.uniform(0.0, 300.0) for hub in HUBS}
    duty = {hub: draw.uniform(0.3, 0.95) for hub in HUBS}
    swing = draw.uniform(10.0, 400.0)

    def up(hub, now):
        turn = (now + phases[hub]) % periods[hub] / periods[hub]
        return now > HOUR_S or turn < duty[hub]

    def load(now):
        return RATE if now > HOUR_S or now % swing < swing / 2 else 1.7 * RATE

    world = World(up=up, load=load).live(HOUR_S)
    assert len(world.ended) <= 60, world.ended
    assert len(world.rollouts()) <= 50, world.ended
    world.live(calm_s())
    world.check_right(world.planned_for)


def test_without_hysteresis_the_same_mesh_thrashes(monkeypatch):
    """What the bounds above are worth: with no dwell and no hold, every flap moves the mesh."""
    at_once = Policy(dwell_s=0.01, dwell_max_s=0.01, urgent_dwell_s=0.01, urgent_dwell_max_s=0.01)
    trusting = Timing(hold_s=0.1, hold_max_s=0.1, lapses=10**6)
    monkeypatch.setitem(globals(), "POLICY", at_once)
    monkeypatch.setitem(globals(), "TIMING", trusting)
    world = World(up=lambda hub, now: hub != "hub-1" or now % 15.0 < 7.5).live(HOUR_S / 4)
    assert len(world.ended) > 100


def test_a_lost_device_is_replaced_within_seconds_and_taken_back_once():
    def up(hub, now):
        return hub != "hub-1" or not 60.0 <= now < 90.0

    world = World(up=up).live(300.0)
    reasons = [reason for _, reason, _ in world.ended]
    assert reasons == [
        ReplanReason.OPERATOR,
        ReplanReason.DEVICE_FAILED,
        ReplanReason.DEVICE_RETURNED,
    ]
    (_, (lost_at, *_), (back_at, *_)) = world.ended
    assert lost_at - 60.0 <= TIMING.failed_after_s + REPLAN_S + 3 * STEP_S
    assert back_at - 90.0 <= TIMING.hold_s + POLICY.dwell_s + POLICY.settle_s + REPLAN_S
    assert asked_rate(problem_of(HUBS)) == RATE


def test_a_calm_mesh_is_left_alone():
    assert len(World().live(HOUR_S).ended) == 1


def test_with_rate_scales_every_source():
    assert asked_rate(with_rate(problem_of(HUBS), 9.0)) == 9.0
