"""Whether a plan keeps every rule of its problem, recomputed from the two documents alone.

Nothing here is shared with the code that makes plans: rates, loads, traffic, accuracy and cost are worked out again,
lane by lane and device by device.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cached_property
from typing import Final

from coordinator.planning.options import Options
from tiermesh.documents.plan import Lane, Plan, Replica
from tiermesh.documents.problem import (
    DefaultLink,
    Problem,
    ProblemDevice,
    ProblemEdge,
    ProblemLink,
    ProblemProfile,
)

TOLERANCE: Final = 1e-6
MOST_BUSY: Final = 1.0
"""With margin, on devices that are as slow as a plan allows for."""


def violations(problem: Problem, plan: Plan, options: Options | None = None) -> list[str]:
    """Every rule that the plan breaks, in words; empty for a plan that keeps them all."""
    check = _Check(problem, plan, options or Options())
    wrong_form = [*check.replicas(), *check.lanes()]
    return wrong_form or [
        *check.rates(),
        *check.devices(),
        *check.margin(),
        *check.functions(),
        *check.traffic(),
        *check.accuracy(),
        *check.cost(),
        *check.rules(),
    ]


def _more(value: float, limit: float) -> bool:
    return value > limit + TOLERANCE * (1 + abs(limit))


def _differs(a: float, b: float) -> bool:
    return abs(a - b) > TOLERANCE * (1 + abs(b))


def _per_item(profile: ProblemProfile, largest: int) -> tuple[float, float]:
    """The least and the most seconds per item in batches of up to `largest`; between measured sizes linear."""
    sizes = sorted(profile.batches, key=lambda b: b.batch_size)
    times: list[float] = []
    for size in range(1, largest + 1):
        above = next((b for b in sizes if b.batch_size >= size), None)
        below = next((b for b in reversed(sizes) if b.batch_size <= size), None)
        if above is None:
            return math.inf, 0.0
        if below is None or below is above:
            times.append(above.mean / size)
            continue
        part = (size - below.batch_size) / (above.batch_size - below.batch_size)
        times.append((below.mean + part * (above.mean - below.mean)) / size)
    return min(times), max(times)


class _Check:
    def __init__(self, problem: Problem, plan: Plan, options: Options) -> None:
        self.problem, self.plan, self.options = problem, plan, options
        self.stages = {s.name: s for s in problem.stages}
        self.replica = {r.id: r for r in plan.replicas}
        self.entry: dict[str, ProblemDevice] = {}
        for device in problem.devices:
            names = [f"{device.name}.{i + 1}" for i in range(device.count)]
            for name in names if device.count > 1 else [device.name]:
                self.entry[name] = device

    # --- form ----------------------------------------------------------------------------------------------------

    def replicas(self) -> Iterator[str]:
        """Known devices, offered variants, allowed places."""
        if len(self.replica) != len(self.plan.replicas):
            yield "two replicas have one id"
        for replica in self.plan.replicas:
            stage, entry = self.stages.get(replica.stage), self.entry.get(replica.device)
            if stage is None or stage.external or entry is None:
                yield f"{replica.id} is of no stage or device of the problem"
                continue
            if stage.tiers and entry.tier not in stage.tiers:
                yield f"{replica.id} is in tier {entry.tier}, which is not allowed"
            if stage.devices and entry.name not in stage.devices:
                yield f"{replica.id} is on a device that is not allowed"
            if stage.pinned and not stage.pinned.get(entry.name):
                yield f"{replica.id} is not where its stage is pinned"
            if self._timed(replica.stage) and self._profile(replica) is None:
                yield f"{replica.id} has no profile"

    def _timed(self, stage: str) -> bool:
        return any(p.stage == stage for p in self.problem.profiles)

    @cached_property
    def _profiles(self) -> dict[tuple[str, str | None, str, float | None], ProblemProfile]:
        functions = {d.name for d in self.problem.devices if d.serverless is not None}
        return {
            (p.stage, p.variant, p.device, p.memory_mb if p.device in functions else None): p
            for p in self.problem.profiles
        }

    def _profile(self, replica: Replica) -> ProblemProfile | None:
        entry = self.entry[replica.device].name
        memory = replica.function.memory_mb if replica.function is not None else None
        return self._profiles.get((replica.stage, replica.variant, entry, memory))

    def seconds(self, replica: Replica) -> tuple[float, float]:
        """The least and the most device time per item, in batches up to the replica's size; none for a function."""
        profile = self._profile(replica)
        if profile is None or replica.function is not None:
            return 0.0, 0.0
        return _per_item(profile, replica.batch_size)

    def lanes(self) -> Iterator[str]:
        """Each lane has one replica for each stage, and the shares sum to 1."""
        total = math.fsum(lane.share for lane in self.plan.lanes)
        if _differs(total, 1.0):
            yield f"the lanes' shares sum to {total}"
        placed = {name for name, stage in self.stages.items() if not stage.external}
        for i, lane in enumerate(self.plan.lanes):
            if set(lane.path) != placed:
                yield f"lane {i} does not pass every stage"
            for stage, name in (*lane.path.items(), *lane.backup.items()):
                if name not in self.replica or self.replica[name].stage != stage:
                    yield f"lane {i} names {name}, which is no replica of {stage}"
            for stage, name in lane.backup.items():
                both = [
                    self.replica[r].device for r in (name, lane.path[stage]) if r in self.replica
                ]
                if len(set(both)) < len(both):
                    yield f"lane {i} backs {stage} up on the same device"

    # --- rates ---------------------------------------------------------------------------------------------------

    @cached_property
    def scale(self) -> float:
        """The served part of the asked rate."""
        asked = max(s.rate_rps or 0.0 for s in self.problem.stages if s.kind == "source")
        return self.plan.predicted.throughput_rps / asked

    def variant(self, lane: Lane, stage: str) -> str | None:
        """The variant that a lane runs a stage with."""
        return self.replica[lane.path[stage]].variant if stage in lane.path else None

    def carried(self, edge: ProblemEdge, lane: Lane) -> tuple[float, float]:
        """(ratio, bytes) of an edge for the lane's variants."""
        here, there = self.variant(lane, edge.source), self.variant(lane, edge.target)
        ratio, size = edge.ratio, edge.bytes_per_item
        if here is not None:
            ratio = edge.ratio_by_variant.get(here, ratio)
            size = edge.bytes_by_variant.get(here, size)
        for row in reversed(edge.by_variants):
            if row.source_variant in {None, here} and row.target_variant in {None, there}:
                ratio = ratio if row.ratio is None else row.ratio
                size = size if row.bytes_per_item is None else row.bytes_per_item
        return ratio, size

    def stage_rate(self, lane: Lane, stage: str) -> float:
        """Items per second of a stage if the lane took every request."""
        inputs = [e for e in self.problem.edges if e.target == stage]
        if not inputs:
            return self.stages[stage].rate_rps or 0.0
        rates = [self.stage_rate(lane, e.source) * self.carried(e, lane)[0] for e in inputs]
        return sum(rates) if self.stages[stage].kind == "union" else min(rates)

    def rates(self) -> Iterator[str]:
        """Each replica's rate is what its lanes bring; pinned stages get their shares."""
        brought: defaultdict[str, float] = defaultdict(float)
        entered: defaultdict[tuple[str, str], float] = defaultdict(float)
        totals: defaultdict[str, float] = defaultdict(float)
        for lane in self.plan.lanes:
            for stage, name in lane.path.items():
                rate = lane.share * self.stage_rate(lane, stage) * self.scale
                brought[name] += rate
                entered[stage, self.entry[self.replica[name].device].name] += rate
                totals[stage] += rate
        for replica in self.plan.replicas:
            if _differs(replica.items_per_second, brought[replica.id]):
                said = replica.items_per_second
                yield f"{replica.id} says {said} items/s; its lanes bring {brought[replica.id]}"
        for stage in self.problem.stages:
            for device, share in stage.pinned.items():
                if _differs(entered[stage.name, device], share * totals[stage.name]):
                    yield f"{stage.name} gets {entered[stage.name, device]}/s on {device}"

    def devices(self) -> Iterator[str]:
        """Device time and memory."""
        busy: defaultdict[str, float] = defaultdict(float)
        memory: defaultdict[str, float] = defaultdict(float)
        for replica in self.plan.replicas:
            least, most = (replica.items_per_second * seconds for seconds in self.seconds(replica))
            if _more(least, replica.utilization) or _more(replica.utilization, most):
                yield f"{replica.id} says it is busy {replica.utilization}, and is {least} to {most}"
            busy[replica.device] += least
            profile = self._profile(replica)
            memory[replica.device] += profile.memory_mb if profile else 0.0
        for name in busy:
            entry = self.entry[name]
            if _more(busy[name], entry.usable_share):
                yield f"{name} is busy {busy[name]} of {entry.usable_share}"
            if entry.memory_mb is not None and _more(memory[name], entry.memory_mb):
                yield f"{name} holds {memory[name]} MB of {entry.memory_mb}"

    def margin(self) -> Iterator[str]:
        """No device is busy all of its time where it is as slow as the plan allows for."""
        if self.plan.margin is None:
            return
        busy: defaultdict[str, float] = defaultdict(float)
        for replica in self.plan.replicas:
            busy[replica.device] += replica.items_per_second * self.seconds(replica)[0]
        for name, factor in self.plan.margin.device_time_factor.items():
            if _more(busy[name] * factor, MOST_BUSY):
                yield f"{name} is busy {busy[name] * factor} when it is {factor} times as slow"

    # --- traffic -------------------------------------------------------------------------------------------------

    def link(self, source: str, target: str) -> tuple[int | None, ProblemLink | DefaultLink]:
        """(index of the entry, the link) from a device or outside stage to another."""
        here, there = self._names(source), self._names(target)
        best: tuple[int, int, ProblemLink] | None = None
        for i, entry in enumerate(self.problem.links):
            if entry.source in here and entry.target in there:
                weight = 2 * here.index(entry.source) + there.index(entry.target)
                if best is None or weight < best[0]:
                    best = (weight, i, entry)
        if best is not None:
            return best[1], best[2]
        inside = source in self.entry and target in self.entry
        return None, self.problem.default_link if inside else DefaultLink()

    def _names(self, place: str) -> list[str]:
        entry = self.entry.get(place)
        return [place] if entry is None else [entry.name, entry.tier]

    def flows(self) -> Iterator[tuple[str, str, float]]:
        """(from, to, bytes per second) of every lane and edge that leaves a device."""
        for lane in self.plan.lanes:
            for edge in self.problem.edges:
                here, there = (
                    self.replica[lane.path[s]].device if s in lane.path else s
                    for s in (edge.source, edge.target)
                )
                outside = here not in self.entry and there not in self.entry
                if here != there and not outside:
                    rate = self.stage_rate(lane, edge.source) * self.carried(edge, lane)[1]
                    yield here, there, rate * lane.share * self.scale

    def traffic(self) -> Iterator[str]:
        """Links that are allowed, within their capacity; radios within theirs."""
        over: Counter[int | None] = Counter()
        sent: Counter[str] = Counter()
        taken: Counter[str] = Counter()
        level = {tier: i for i, tier in enumerate(self.problem.tiers)}
        for here, there, rate in self.flows():
            entry, link = self.link(here, there)
            if not link.allowed:
                yield f"traffic from {here} to {there} is forbidden"
            inside = here in self.entry and there in self.entry
            tiers = [level[self.entry[d].tier] for d in (here, there) if inside]
            if self.problem.upward_only and tiers != sorted(tiers):
                yield f"traffic from {here} to {there} goes down"
            over[entry] += rate  # pyright: ignore[reportArgumentType]
            sent[here] += rate  # pyright: ignore[reportArgumentType]
            taken[there] += rate  # pyright: ignore[reportArgumentType]
        yield from self._capacities(over, sent, taken)

    def _capacities(
        self, over: Counter[int | None], sent: Counter[str], taken: Counter[str]
    ) -> Iterator[str]:
        for entry, rate in over.items():
            link = self.problem.default_link if entry is None else self.problem.links[entry]
            if link.capacity_mbps is not None and _more(rate * 8e-6, link.capacity_mbps):
                yield f"link {entry} carries {rate * 8e-6} Mbit/s of {link.capacity_mbps}"
        for name, device in self.entry.items():
            if device.uplink_mbps is not None and _more(sent[name] * 8e-6, device.uplink_mbps):
                yield f"{name} sends {sent[name] * 8e-6} Mbit/s of {device.uplink_mbps}"
            if device.downlink_mbps is not None and _more(taken[name] * 8e-6, device.downlink_mbps):
                yield f"{name} takes {taken[name] * 8e-6} Mbit/s of {device.downlink_mbps}"

    # --- asks ----------------------------------------------------------------------------------------------------

    def lane_accuracy(self, lane: Lane) -> float | None:
        """The accuracy of a lane's variants in the problem's table; None where there is no table."""
        table = self.problem.accuracy.table if self.problem.accuracy else []
        for row in table:
            if all(self.variant(lane, s) == v for s, v in row.variants.items()):
                return row.accuracy
        return -math.inf if table else None

    def accuracy(self) -> Iterator[str]:
        """The mean is what the plan says and at least what is asked; or every lane's is."""
        values = [self.lane_accuracy(lane) for lane in self.plan.lanes]
        asked = self.problem.asks.accuracy_at_least
        if any(v is None for v in values):
            return
        known = [v for v in values if v is not None]
        mean = math.fsum(v * lane.share for v, lane in zip(known, self.plan.lanes, strict=True))
        if _differs(mean, self.plan.predicted.accuracy or math.inf):
            yield f"the accuracy is {mean}, not {self.plan.predicted.accuracy}"
        least = min(known) if self.problem.asks.every_request else mean
        if asked is not None and _more(asked, least):
            yield f"the accuracy is {least}, below {asked}"

    def cost(self) -> Iterator[str]:
        """Devices and traffic cost what the plan says, within the ceiling; so does the power."""
        asks, used = self.problem.asks, {r.device for r in self.plan.replicas}
        compute = math.fsum(self.entry[d].price_per_hour for d in used)
        functions = math.fsum(self.function_cost(r) for r in self.plan.replicas)
        network = math.fsum(
            self.link(here, there)[1].price_per_gib * rate * 3600 / 2**30
            for here, there, rate in self.flows()
        )
        said = self.plan.cost
        for what, mine, theirs in (
            ("compute", compute, said.compute_per_hour),
            ("network", network, said.network_per_hour),
            ("serverless", functions, said.serverless_per_hour),
            ("total", compute + network + functions, said.total_per_hour),
        ):
            if _differs(mine, theirs):
                yield f"{what} costs {mine}, not {theirs}"
        if asks.cost_per_hour_at_most is not None and _more(
            compute + network + functions, asks.cost_per_hour_at_most
        ):
            yield f"it costs {compute + network + functions} of {asks.cost_per_hour_at_most}"
        if asks.watts_at_most is not None and _more(self.watts(), asks.watts_at_most):
            yield f"it draws {self.watts()} W of {asks.watts_at_most}"

    def functions(self) -> Iterator[str]:
        """A function is on serverless terms, and its price between that of full batches and of single items."""
        for replica in self.plan.replicas:
            terms = self.entry[replica.device].serverless
            if (terms is None) != (replica.function is None):
                yield f"{replica.id} is a function on a device, or the other way round"
                continue
            profile = self._profile(replica)
            if terms is None or replica.function is None or profile is None:
                continue
            cold = terms.cold_start
            started = cold.seconds * cold.share if cold is not None else 0.0
            gigabytes = replica.function.memory_mb / 1024
            least, most = (
                (seconds + extra) * gigabytes * terms.usd_per_gb_second + call
                for seconds, extra, call in zip(
                    _per_item(profile, replica.batch_size),
                    (started / replica.batch_size, started),
                    (terms.usd_per_call / replica.batch_size, terms.usd_per_call),
                    strict=True,
                )
            )
            price = replica.function.usd_per_item
            if price < least * (1 - TOLERANCE) or price > most * (1 + TOLERANCE):
                yield f"{replica.id} costs {price} an item, and can cost {least} to {most}"

    @staticmethod
    def function_cost(replica: Replica) -> float:
        """US dollars per hour of a replica as a function."""
        return (
            replica.function.usd_per_item * replica.items_per_second * 3600
            if replica.function
            else 0.0
        )

    def watts(self) -> float:
        """The power of the devices used."""
        busy: Counter[str] = Counter()
        for replica in self.plan.replicas:
            busy[replica.device] += replica.utilization  # pyright: ignore[reportArgumentType]
        return math.fsum(
            self.entry[d].watts_idle
            + max(self.entry[d].watts_busy - self.entry[d].watts_idle, 0.0) * share
            for d, share in busy.items()
        )

    def rules(self) -> Iterator[str]:
        """Stateful stages, exclusive devices, single variants."""
        by_stage: defaultdict[str, list[Replica]] = defaultdict(list)
        timed: defaultdict[str, set[str]] = defaultdict(set)
        for replica in self.plan.replicas:
            by_stage[replica.stage].append(replica)
            if self._timed(replica.stage):
                timed[replica.device].add(replica.stage)
        for name, replicas in by_stage.items():
            if self.stages[name].stateful and len(replicas) > 1:
                yield f"{name} keeps state and has {len(replicas)} replicas"
            if self.options.single_variant and len({r.variant for r in replicas}) > 1:
                yield f"{name} runs several variants"
        for device, names in timed.items():
            if self.options.exclusive and len(names) > 1:
                yield f"{device} serves {', '.join(sorted(names))}"
