"""Why a plan is as it is: what the next best would cost, which asks bind, and what one unit more would save.

Each answer is a plan of its own: the problem is changed in one place and solved again. What binds is judged by plans
that keep every ask, percentiles and the loss of a device among them. Replicas are compared without percentiles, which
takes a fraction of the time; the explanation says so where any are asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from coordinator.planning import overflow, slo
from coordinator.planning.exact import Found
from coordinator.planning.margin import CEILING
from coordinator.planning.options import Options, PlanObjective, Strategy
from coordinator.planning.planner import objective_value
from coordinator.planning.search_progress import UNWATCHED, SearchObserver
from tiermesh.documents.plan import Plan, Replica
from tiermesh.documents.problem import Problem, ProblemStage
from tiermesh.errors import DigestMismatch

EFFORT_S: Final = 5.0
EXPLAINED: Final = 24
"""At most so many replicas are explained, the busiest first."""
SAME: Final = 1e-6
FULL: Final = 0.995
SLOWER: Final = (0.1, 0.25, 0.5, 1.0)
"""Parts of a percentile by which it is relaxed, until that makes a better plan."""


@dataclass(frozen=True, kw_only=True)
class Why:
    """Why a replica is there. `without` is how much worse the objective is without it; None: no plan without it."""

    replica: str
    without_device: float | None
    without_variant: float | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Binding:
    """A constraint that binds: by how much it was relaxed, and what that saves of the objective."""

    constraint: str
    relaxed_by: str
    saves: float


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why each replica, and what binds. The objective is in its own unit: USD/h, requests/s, accuracy or W.

    `left_out` names what replicas were compared without; nothing is left out of what binds.
    """

    objective: str
    value: float
    replicas: list[Why]
    binding: list[Binding]
    left_out: list[str] = field(default_factory=list[str])


def explain(problem: Problem, plan: Plan, watch: SearchObserver = UNWATCHED) -> Explanation:
    """Explain a plan of a problem; `watch` can end that.

    Raises:
        DigestMismatch: the plan was made for another problem.
        Stopped: by `watch`.
    """
    if plan.made_for.problem != problem.digest:
        raise DigestMismatch(
            "the plan was made for another problem",
            why=f"it names {plan.made_for.problem[:19]}, and the problem is {problem.digest[:19]}",
            fix="Pass its problem with --problem, or replan",
        )
    asking = _Asking(problem, plan, watch)
    busiest = sorted(plan.replicas, key=lambda r: (-r.utilization, r.id))[:EXPLAINED]
    return Explanation(
        objective=plan.rules.objective,
        value=plan.solver.objective,
        replicas=[asking.why(r) for r in busiest],
        binding=sorted(asking.binding(), key=lambda b: -b.saves),
        left_out=["latency"] if asking.latency_asked else [],
    )


class _Asking:
    def __init__(self, problem: Problem, plan: Plan, watch: SearchObserver) -> None:
        self.problem, self.plan = problem, plan
        objective = PlanObjective(plan.rules.objective)
        self.options = Options(
            exclusive=plan.rules.exclusive,
            single_variant=plan.rules.single_variant,
            objective=PlanObjective.COST if objective is PlanObjective.LATENCY else objective,
            time_limit_s=EFFORT_S,
            strategy=Strategy.EXACT,
            confidence=plan.margin.confidence if plan.margin is not None else None,
            margin=plan.margin is not None,
            watch=watch.for_nothing(),
        )
        self.gains = objective in {PlanObjective.THROUGHPUT, PlanObjective.ACCURACY}
        self.latency_asked = bool(problem.asks.latency_s) and objective is not PlanObjective.LATENCY
        self.base = self.value(problem)

    def value(self, problem: Problem) -> float | None:
        """The objective of a problem's best plan (percentiles left out); None where there is none."""
        return self._objective(overflow.search(problem, self.options))

    def kept(self, problem: Problem) -> float | None:
        """The objective of the best plan found that keeps the percentiles as well."""
        if not problem.asks.latency_s or not self.latency_asked:
            return self.value(problem)
        checked = slo.search(problem, self.options)
        return self._objective(checked.found if checked is not None else None)

    def _objective(self, found: Found | None) -> float | None:
        return None if found is None else objective_value(found, self.options)

    def worse(self, problem: Problem) -> float | None:
        """How much worse the best plan of a changed problem is, percentiles left out."""
        return self._worse(self.value(problem), self.base)

    def _worse(self, value: float | None, than: float | None) -> float | None:
        if value is None or than is None:
            return None
        return (than - value) if self.gains else (value - than)

    # --- replicas ------------------------------------------------------------------------------------------------

    def why(self, replica: Replica) -> Why:
        """What it would cost to do without the replica's place, and without its variant."""
        device = None
        if not self._is_pinned(replica):
            device = self.worse(self._without(replica, variant_everywhere=False))
        variant = None
        if len(self._variants(replica.stage)) > 1:
            variant = self.worse(self._without(replica, variant_everywhere=True))
        return Why(
            replica=replica.id,
            without_device=device,
            without_variant=variant,
            reason=self._reason(replica, device, variant) + self._prior(replica),
        )

    def _is_pinned(self, replica: Replica) -> bool:
        """Whether its place was settled before anything was planned."""
        stage, entry = self._stage(replica.stage), self._entry(replica)
        return entry in stage.pinned or stage.devices == [entry]

    def _stage(self, name: str) -> ProblemStage:
        return next(s for s in self.problem.stages if s.name == name)

    def _variants(self, stage: str) -> list[str]:
        return self._stage(stage).variants

    def _entry(self, replica: Replica) -> str:
        names = {d.name for d in self.problem.devices}
        return replica.device if replica.device in names else replica.device.rpartition(".")[0]

    def _without(self, replica: Replica, *, variant_everywhere: bool) -> Problem:
        entry = self._entry(replica)
        profiles = [
            p
            for p in self.problem.profiles
            if not (
                p.stage == replica.stage
                and p.variant == replica.variant
                and (variant_everywhere or p.device == entry)
            )
        ]
        if len(profiles) == len(self.problem.profiles):
            return self._not_on(replica.stage, entry)
        return msgspec.structs.replace(self.problem, profiles=profiles)

    def _not_on(self, stage: str, entry: str) -> Problem:
        """The problem in which a stage that needs no profile may not be on a device."""
        others = [d.name for d in self.problem.devices if d.name != entry]
        stages = [
            msgspec.structs.replace(s, devices=[d for d in s.devices or others if d != entry])
            if s.name == stage
            else s
            for s in self.problem.stages
        ]
        return msgspec.structs.replace(self.problem, stages=stages)

    def _prior(self, replica: Replica) -> str:
        """Where its speed was taken from, if its device has not measured it."""
        key = (replica.stage, replica.variant, self._entry(replica))
        for p in self.problem.profiles:
            if (p.stage, p.variant, p.device) == key and p.prior is not None:
                return f"; prior from class {p.prior}, not measured here"
        return ""

    def _reason(self, replica: Replica, device: float | None, variant: float | None) -> str:
        entry = self._entry(replica)
        unit = {"throughput": "requests/s", "accuracy": "", "power": "W"}.get(
            self.plan.rules.objective, "USD/h"
        )
        where = (
            f"no plan without `{replica.stage}` on {entry}"
            if device is None
            else f"the next best place for it is {device:.4g} {unit} worse"
        )
        if device is not None and device <= SAME:
            where = f"another place than {entry} would be as good"
        if self._is_pinned(replica):
            where = f"the workflow or the fleet pins `{replica.stage}` to {entry}"
        if len(self._variants(replica.stage)) <= 1:
            return where
        if variant is None:
            return f"{where}; no plan without `{replica.variant}`"
        if variant <= SAME:
            return f"{where}; a plan without `{replica.variant}` would be as good"
        return f"{where}; without `{replica.variant}` it is {variant:.4g} {unit} worse"

    # --- constraints ---------------------------------------------------------------------------------------------

    def binding(self) -> Iterator[Binding]:
        """Each constraint that, relaxed by a unit, makes the objective better: by that of a plan that was found."""
        base = self.plan.solver.objective if self.latency_asked else self.base
        for name, by, relaxed in self._relaxations():
            worse = self._worse(self.kept(relaxed), base)
            if worse is not None and worse < -SAME:
                yield Binding(constraint=name, relaxed_by=by, saves=-worse)
        if self.latency_asked:
            yield from self._slower_allowed(base)

    def _slower_allowed(self, base: float | None) -> Iterator[Binding]:
        """The least relaxation of each percentile, of those tried, that makes a better plan."""
        asked = self.problem.asks.latency_s
        for name, seconds in asked.items():
            for part in SLOWER:
                looser = {**asked, name: seconds * (1 + part)}
                worse = self._worse(self.kept(self._asks(latency_s=looser)), base)
                if worse is not None and worse < -SAME:
                    yield Binding(
                        constraint=f"{name} at most {seconds * 1e3:g} ms",
                        relaxed_by=f"{seconds * part * 1e3:.4g} ms",
                        saves=-worse,
                    )
                    break

    def _relaxations(self) -> Iterator[tuple[str, str, Problem]]:
        asks = self.problem.asks
        if asks.accuracy_at_least is not None:
            unit = 1.0 if asks.accuracy_at_least > 1 else 0.01
            lower = asks.accuracy_at_least - unit
            yield (
                f"accuracy at least {asks.accuracy_at_least:g}",
                f"{unit:g}",
                self._asks(accuracy_at_least=lower),
            )
        if asks.cost_per_hour_at_most is not None:
            higher = asks.cost_per_hour_at_most + 1
            yield "cost ceiling", "1 USD/h", self._asks(cost_per_hour_at_most=higher)
        if asks.watts_at_most is not None:
            yield "power ceiling", "1 W", self._asks(watts_at_most=asks.watts_at_most + 1)
        if asks.any_device_lost is not None:
            yield "any device may be lost", "given up", self._asks(any_device_lost=None)
        if not self.gains:
            yield "rate", "1 request/s less", self._slower(1.0)
        yield from self._device_relaxations()
        yield from self._link_relaxations()

    def _asks(self, **asks: object) -> Problem:
        changed = msgspec.structs.replace(self.problem.asks, **asks)
        return msgspec.structs.replace(self.problem, asks=changed)

    def _slower(self, by: float) -> Problem:
        top = max(s.rate_rps or 0.0 for s in self.problem.stages)
        scale = max(top - by, top * 0.01) / top
        stages = [
            msgspec.structs.replace(s, rate_rps=s.rate_rps * scale) if s.rate_rps else s
            for s in self.problem.stages
        ]
        return msgspec.structs.replace(self.problem, stages=stages)

    def _device_relaxations(self) -> Iterator[tuple[str, str, Problem]]:
        """One more of each device that is in use and as busy as it may be, and more memory where it is full."""
        busy: dict[str, float] = {}
        memory: dict[str, float] = {}
        for r in self.plan.replicas:
            busy[r.device] = busy.get(r.device, 0.0) + r.utilization
            memory[r.device] = memory.get(r.device, 0.0) + (r.memory_mb or 0.0)
        entries = {self._entry(r): r.device for r in self.plan.replicas}
        for i, device in enumerate(self.problem.devices):
            here = entries.get(device.name)
            if here is None:
                continue
            if busy[here] >= FULL * self._room(device.usable_share, here):
                more = msgspec.structs.replace(device, count=device.count + 1)
                yield f"device time of {device.name}", "one more device", self._device(i, more)
            if device.memory_mb is not None and device.memory_mb - memory[here] < MEMORY_STEP_MB:
                room = msgspec.structs.replace(device, memory_mb=device.memory_mb + MEMORY_STEP_MB)
                yield f"memory of {device.name}", f"{MEMORY_STEP_MB:g} MB", self._device(i, room)

    def _room(self, usable_share: float, device: str) -> float:
        """How busy a device may be as profiled: by its usable share, and by the plan's margin."""
        margin = self.plan.margin
        slow = margin.device_time_factor.get(device, 1.0) if margin is not None else 1.0
        return min(usable_share, CEILING / slow) if margin is not None else usable_share

    def _device(self, index: int, changed: object) -> Problem:
        devices: list[object] = list(self.problem.devices)
        devices[index] = changed
        return msgspec.structs.replace(self.problem, devices=devices)

    def _link_relaxations(self) -> Iterator[tuple[str, str, Problem]]:
        for i, link in enumerate(self.problem.links):
            if link.capacity_mbps is None:
                continue
            links = list(self.problem.links)
            links[i] = msgspec.structs.replace(link, capacity_mbps=link.capacity_mbps + 1)
            changed = msgspec.structs.replace(self.problem, links=links)
            yield f"link {link.source} to {link.target}", "1 Mbit/s", changed


MEMORY_STEP_MB: Final = 100.0
