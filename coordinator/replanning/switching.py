"""Whether a plan that was found is worth rolling out: what the running one lacks, and what leaving it costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from coordinator.planning.diff import difference
from coordinator.replanning.current_problem import asked_rate
from coordinator.replanning.reasons import Policy
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem, ProblemProfile

SLACK: Final = 0.02
"""A device that is busier than allowed by this share, or a rate that is lower, is still within what is asked."""
GAIN: Final = 0.05
"""Where no plan serves all that is asked, a new one must serve this much more than the running one."""
REQUESTS: Final = 2_000
SIMULATED: Final = 64
"""Plans with more replicas than this are not played through: their latency is not looked at."""


@dataclass(frozen=True, slots=True)
class SwitchDecision:
    """Whether to roll the new plan out, and why (not)."""

    replace: bool
    why: str


def worth(problem: Problem, running: Plan | None, found: Plan, policy: Policy) -> SwitchDecision:
    """Judge a plan `found` for the problem of now against the running one.

    It replaces a plan that falls short of what is asked, if it falls less short; a sound one only if it saves more
    than the churn costs.
    """
    if running is None:
        return SwitchDecision(True, "nothing runs yet")
    lacks = shortfalls(problem, running)
    change = difference(
        running, found, churn_per_start=policy.start_price_share * running.cost.total_per_hour
    )
    if change.empty:
        return SwitchDecision(False, "what runs is the best plan still" if not lacks else lacks[0])
    if lacks:
        return _better(problem, running, found, lacks)
    saved, price = -change.cost_per_hour, change.churn_cost_per_hour
    least = policy.least_saving_share * running.cost.total_per_hour
    told = f"{saved:.4g} USD/h saved, against {price:.4g} for {len(change.started) + len(change.moved)} starts"
    if saved > max(price, least, 0.0):
        return SwitchDecision(True, told)
    return SwitchDecision(False, f"the running plan is kept: {told}, and {least:.4g} at least")


def _better(problem: Problem, running: Plan, found: Plan, lacks: list[str]) -> SwitchDecision:
    """Of two plans that fall short, the new one must do clearly more; one that cannot run does nothing."""
    short = "; ".join(lacks)
    rates = (running.predicted.throughput_rps, found.predicted.throughput_rps)
    meets = rates[1] >= asked_rate(problem) * (1 - SLACK)
    if meets or _missing(problem, running) or rates[1] > rates[0] * (1 + GAIN):
        return SwitchDecision(True, f"what runs falls short: {short}")
    told = f"{rates[1]:.4g}/s would be served, against {rates[0]:.4g}/s"
    return SwitchDecision(
        False, f"what runs falls short ({short}), and nothing does clearly more: {told}"
    )


def shortfalls(problem: Problem, plan: Plan) -> list[str]:
    """What keeps a plan from meeting the asks of the problem of now, in words."""
    return overloads(problem, plan) or list(_late(problem, plan))


def overloads(problem: Problem, plan: Plan) -> list[str]:
    """Of what keeps it from that, what is known at once: devices that are missing, or have not the time."""
    missing = _missing(problem, plan)
    if missing:
        return [f"{', '.join(missing)} cannot be used"]
    return list(_busy(problem, plan))


def _missing(problem: Problem, plan: Plan) -> list[str]:
    there = {device.name for device in problem.devices}
    return sorted({replica.device for replica in plan.replicas} - there)


def _busy(problem: Problem, plan: Plan) -> Iterator[str]:
    """Devices that would be busier than they may at the rate that is asked."""
    profiles = {(p.stage, p.variant, p.device): p for p in problem.profiles}
    allowed = {device.name: device.usable_share for device in problem.devices}
    factor = asked_rate(problem) / max(plan.predicted.throughput_rps, 1e-12)
    busy: defaultdict[str, float] = defaultdict(float)
    for replica in plan.replicas:
        profile = profiles.get((replica.stage, replica.variant, replica.device))
        if profile is None and replica.variant is not None:
            yield f"{replica.id} has no profile any more"
        elif profile is not None:
            busy[replica.device] += (
                replica.items_per_second * factor * _item_s(profile, replica.batch_size)
            )
    for device, share in sorted(busy.items()):
        if share > allowed[device] * (1 + SLACK):
            yield f"{device} would be busy {share:.0%} of its time, and may be {allowed[device]:.0%}"


def _item_s(profile: ProblemProfile, size: int) -> float:
    """Device seconds per item in batches of a size, or of the nearest one that was measured."""
    batch = min(profile.batches, key=lambda b: abs(b.batch_size - size))
    return batch.mean / batch.batch_size


def _late(problem: Problem, plan: Plan) -> Iterator[str]:
    asked = problem.asks.latency_s
    if not asked or len(plan.replicas) > SIMULATED:
        return
    from coordinator.planning.simulate import PlayedPlan, SimulatedLoad, simulate

    served = PlayedPlan(replicas=plan.replicas, lanes=plan.lanes, rate_rps=asked_rate(problem))
    found = simulate(problem, served, SimulatedLoad(requests=REQUESTS)).latency_ms
    for percentile, limit_s in asked.items():
        if found[percentile] > 1e3 * limit_s * (1 + SLACK):
            yield f"its {percentile} would be {found[percentile]:.0f} ms, and {1e3 * limit_s:.0f} are asked"
