"""A plan played through, event by event, from profiles: what its requests would see.

One compute lane per device, shared by its replicas. A replica's batch may start when the device is free and either
`batch_size` items wait or the oldest has waited `batch_timeout`; among replicas that may start, the one whose oldest
item came first goes. Functions are never busy: there is a server for each batch, and some have to start. A request
carries as many items to a stage as the edges' ratios say; none ends it there. Batch times and numbers of items are
drawn from what was measured (`service_times`, `items_seen`), and lanes are dealt as request ids do it. Chance
is seeded: the same plan, load and seed give the same figures.
"""

from __future__ import annotations

import graphlib
import heapq
import itertools
import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from coordinator.planning.checking import members
from coordinator.planning.dealing import Dealing
from coordinator.planning.instance import carried
from coordinator.planning.network import Network
from coordinator.planning.requests import Requests
from coordinator.planning.service_times import Curve, at, curve
from tiermesh.documents.plan import Lane, Plan, Replica
from tiermesh.documents.problem import BatchTime, Problem, ProblemEdge, Serverless
from tiermesh.documents.workflow import PERCENTILES
from tiermesh.errors import InvalidDocument

WARM_UP: Final = 0.1
"""The part of the requests, at the beginning, that does not count."""


@dataclass(frozen=True, kw_only=True)
class SimulatedLoad:
    """What is offered: `scale` times the plan's rate, for so many requests. `fail` is lost at `fail_at` (0 to 1).

    `arrivals` are those of the problem's sources unless given: even where every source is.
    `times` are recorded arrivals in ascending seconds; they then take the place of drawn ones.
    """

    requests: int = 4000
    scale: float = 1.0
    arrivals: Literal["poisson", "constant"] | None = None
    seed: int = 1
    fail: str | None = None
    fail_at: float = 0.5
    times: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class SimulatedOutcome:
    """What came of it. Latencies in milliseconds; `busy` is the share of its time that each device worked.

    `servers` is how many of each provider's functions ran at once on average, `serverless_per_hour` what they cost.
    """

    offered_rps: float
    throughput_rps: float
    latency_ms: dict[str, float]
    busy: dict[str, float]
    completed: int
    lost: int
    moved_to_backup: int
    accuracy: float | None
    servers: dict[str, float] = field(default_factory=dict[str, float])
    serverless_per_hour: float = 0.0


@dataclass(slots=True)
class _Request:
    """A request on its way; `due` counts inputs a stage still waits for, `open` stages that are not done."""

    index: int
    born: float
    lane: Lane
    items: dict[str, int]
    due: dict[str, int]
    left: dict[str, int]
    open: int
    path: dict[str, str]
    lost: bool = False


@dataclass(frozen=True, slots=True)
class _Step:
    """A stage on a path: the edges into it with their ratios there, and the mean of its items."""

    stage: str
    inputs: Sequence[tuple[ProblemEdge, float]]
    mean: float


@dataclass(frozen=True, slots=True)
class _Hop:
    """What an edge adds between two replicas: seconds, and bytes per item over a link's capacity (None: no limit)."""

    seconds: float
    bytes_per_item: float = 0.0
    capacity_mbps: float | None = None


@dataclass(slots=True)
class _Server:
    """A device: its replicas' queues of (arrived, request), and the work it has done; or all functions of a provider.

    `terms` are those of functions; they are never `taken`.
    """

    terms: Serverless | None = None
    busy_s: float = 0.0
    paid_usd: float = 0.0
    down: bool = False
    taken: bool = False
    queues: dict[str, deque[tuple[float, _Request]]] = field(default_factory=dict)
    serving: dict[int, list[_Request]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PlayedPlan:
    """The part of a plan that is played."""

    replicas: Sequence[Replica]
    lanes: Sequence[Lane]
    rate_rps: float
    accuracy: float | None = None


def simulate(
    problem: Problem, plan: Plan | PlayedPlan, load: SimulatedLoad | None = None
) -> SimulatedOutcome:
    """Play a plan through.

    Raises:
        InvalidDocument: the device to fail is not in the plan, or the plan is not of this problem.
    """
    if isinstance(plan, Plan):
        promised = plan.predicted
        plan = PlayedPlan(
            replicas=plan.replicas,
            lanes=plan.lanes,
            rate_rps=promised.throughput_rps,
            accuracy=promised.accuracy,
        )
    return _Simulation(problem, plan, load or SimulatedLoad()).run()


class _Simulation:
    def __init__(self, problem: Problem, plan: PlayedPlan, load: SimulatedLoad) -> None:
        self.plan, self.load = plan, load
        self.stages = {s.name: s for s in problem.stages}
        self.placed = [s.name for s in problem.stages if not s.external]
        self.edges = problem.edges
        self.inputs = {n: [e for e in self.edges if e.target == n] for n in self.stages}
        self.outputs = {
            n: [e for e in self.edges if e.source == n and not self.stages[e.target].external]
            for n in self.stages
        }
        self.steps: dict[tuple[tuple[str, str], ...], list[_Step]] = {}
        self.hops: dict[tuple[str, str, str | None, str], _Hop] = {}
        self.replicas = {r.id: r for r in plan.replicas}
        self.network = Network(problem)
        self.entry = _entries(problem)
        self.times = _Times(problem)
        self.requests = Requests.of(problem, plan.rate_rps * load.scale)
        self.random = random.Random(load.seed)  # noqa: S311 - a model of traffic, not a secret
        self.dealing = Dealing(
            plan.lanes,
            next((s.name for s in problem.stages if s.kind == "source" and not s.external), None),
            "shaped" if load.times else self._arrivals(),
            first=self.random.random(),
            seed=load.seed,
        )
        terms = {d.name: d.serverless for d in problem.devices}
        used = dict.fromkeys(r.device for r in plan.replicas)
        self.servers = {name: _Server(terms.get(self.entry.get(name, ""))) for name in used}
        self.events: list[tuple[float, int, str, object]] = []
        self.count = 0
        self.done: list[tuple[float, float]] = []
        self.lost = self.moved = 0
        if load.fail is not None and load.fail not in {r.device for r in plan.replicas}:
            raise InvalidDocument(f"the plan has no device `{load.fail}`", path=load.fail)
        for replica in plan.replicas:
            if replica.device not in self.entry:
                raise InvalidDocument("the plan is not of this problem", path=replica.device)
        self.profiles = {r.id: self._profile(r) for r in plan.replicas}
        self.handlers: dict[str, Callable[[float, Any], None]] = {
            "frame": self._on_frame,
            "check": self._on_check,
            "served": self._on_served,
            "fail": self._on_fail,
        }

    def run(self) -> SimulatedOutcome:
        """All requests, from the first arrival to the last departure."""
        rate = self._rate()
        births = self._births(rate)
        if self.load.fail is not None:
            self._at(births[int(self.load.fail_at * (len(births) - 1))], "fail", self.load.fail)
        events, handlers = self.events, self.handlers
        clock = 0.0
        for index, born in enumerate(births):
            while events and self._comes_first(events[0], born):
                clock, _, kind, what = heapq.heappop(events)
                handlers[kind](clock, what)
            clock = born
            self._born(clock, index)
        while events:
            clock, _, kind, what = heapq.heappop(events)
            handlers[kind](clock, what)
        return self._outcome(rate, clock)

    @staticmethod
    def _comes_first(event: tuple[float, int, str, object], born: float) -> bool:
        """Whether an event is before a request that is born; of those at one time only the loss of a device is."""
        return event[0] < born or (event[0] == born and event[2] == "fail")

    def _rate(self) -> float:
        times = self.load.times
        if len(times) > 1 and times[-1] > times[0]:
            return (len(times) - 1) / (times[-1] - times[0])
        return self.plan.rate_rps * self.load.scale

    def _births(self, rate: float) -> list[float]:
        if self.load.times:
            return list(self.load.times)
        if self._arrivals() == "constant":
            return self._even(rate)
        if self._arrivals() == "shaped":
            generator = np.random.default_rng(self.load.seed)
            return self.requests.times(self.load.requests, generator).tolist()
        clock, births = 0.0, list[float]()
        for _ in range(self.load.requests):
            clock += self.random.expovariate(rate)
            births.append(clock)
        return births

    def _arrivals(self) -> Literal["poisson", "constant", "shaped"]:
        if self.load.arrivals is not None:
            return self.load.arrivals
        if self.requests.memoryless:
            return "poisson"
        return "shaped" if self.requests.process or self.requests.record else "constant"

    def _even(self, rate: float) -> list[float]:
        """Each device at which requests enter makes its share evenly, and their parts interleave (`Arrivals.gap`)."""
        source = next(s for s in self.stages.values() if s.kind == "source")
        alike = Counter(self.entry.values())
        shares = [
            share / alike[name]
            for name, share in source.pinned.items()
            for _ in range(alike[name])
            if share > 0
        ] or [1.0]
        whole = sum(shares)
        starts = itertools.accumulate(shares, initial=0.0)
        parts = [
            (start / whole, whole / (rate * share))
            for start, share in zip(starts, shares, strict=False)
        ]
        ticks = [[(i + start) * gap for i in range(self.load.requests)] for start, gap in parts]
        return list(itertools.islice(heapq.merge(*ticks), self.load.requests))

    def _at(self, time: float, kind: str, what: object) -> None:
        self.count += 1
        heapq.heappush(self.events, (time, self.count, kind, what))

    # --- requests ------------------------------------------------------------------------------------------------

    def _born(self, clock: float, index: int) -> None:
        request = self._request(index, clock, self.dealing.next())
        if request is None:
            self.lost += 1
            return
        for name, stage in self.stages.items():
            if stage.kind == "source":
                if stage.external:
                    self._pass_on(clock, request, name)
                else:
                    self._arrive(clock, request, name)
        self._close_if_done(clock, request)

    def _request(self, index: int, clock: float, lane: Lane) -> _Request | None:
        path = dict(lane.path)
        for stage, name in lane.path.items():
            if self._down(name):
                backup = lane.backup.get(stage)
                if backup is None or self._down(backup):
                    return None
                path[stage] = backup
        self.moved += path != lane.path
        items = self._items(path)
        due: dict[str, int] = defaultdict(int)
        for edge in self.edges:
            if items.get(edge.source, 1) > 0 and items.get(edge.target, 1) > 0:
                due[edge.target] += 1
        for name, stage in self.stages.items():
            if stage.kind == "union" and due[name]:
                items[name] = max(items[name], 1)
        live = sum(items[name] > 0 for name in self.placed)
        return _Request(index, clock, lane, items, dict(due), dict(items), live, path)

    def _down(self, replica: str) -> bool:
        return self.servers[self.replicas[replica].device].down

    def _items(self, path: dict[str, str]) -> dict[str, int]:
        """How many items the request is at each stage.

        What one stage makes of its items the next one gets; where several meet, the mean that the ratios give.
        """
        key = tuple(path.items())
        steps = self.steps.get(key)
        if steps is None:
            steps = self.steps[key] = self._steps(path)
        items: dict[str, int] = {}
        for step in steps:
            if len(step.inputs) == 1:
                edge, ratio = step.inputs[0]
                items[step.stage] = self._become(edge, items[edge.source], ratio)
            else:
                dead = bool(step.inputs) and all(items[e.source] == 0 for e, _ in step.inputs)
                items[step.stage] = 0 if dead else self._rounded(step.mean)
        return items

    def _steps(self, path: dict[str, str]) -> list[_Step]:
        """The stages in the order of the workflow."""
        mean: dict[str, float] = {}
        steps: list[_Step] = []
        for name in self._order():
            inputs = [(e, self._carried(e, path)[0]) for e in self.inputs[name]]
            parts = [mean[e.source] * ratio for e, ratio in inputs]
            union = self.stages[name].kind == "union"
            mean[name] = (sum(parts) if union else min(parts)) if parts else 1.0
            steps.append(_Step(name, inputs, mean[name]))
        return steps

    def _become(self, edge: ProblemEdge, items: int, ratio: float) -> int:
        """Of so many items that the edge's first stage wrote, those at its second."""
        if not edge.items_seen or ratio != edge.ratio:
            return self._rounded(items * ratio)
        return sum(self.random.choice(edge.items_seen) for _ in range(items))

    def _rounded(self, mean: float) -> int:
        whole = math.floor(mean)
        return whole + (self.random.random() < mean - whole)

    def _order(self) -> list[str]:
        graph = {n: [e.source for e in edges] for n, edges in self.inputs.items()}
        return list(graphlib.TopologicalSorter(graph).static_order())

    def _carried(self, edge: ProblemEdge, path: dict[str, str]) -> tuple[float, float]:
        here, there = (
            self.replicas[path[s]].variant if s in path else None
            for s in (edge.source, edge.target)
        )
        return carried(edge, here, there)

    def _pass_on(self, clock: float, request: _Request, stage: str) -> None:
        """A stage of the request is done: its frames go to the stages that read it."""
        for edge in self.outputs[stage]:
            if request.items.get(edge.target, 0) == 0:
                continue
            self._at(clock + self._delay(edge, request), "frame", (request, edge.target))

    def _delay(self, edge: ProblemEdge, request: _Request) -> float:
        path = request.path
        key = (edge.source, edge.target, path.get(edge.source), path[edge.target])
        hop = self.hops.get(key)
        if hop is None:
            hop = self.hops[key] = self._hop(edge, path)
        if not hop.capacity_mbps:
            return hop.seconds
        size = hop.bytes_per_item * request.items[edge.source]
        return hop.seconds + size * 8e-6 / hop.capacity_mbps

    def _hop(self, edge: ProblemEdge, path: dict[str, str]) -> _Hop:
        if edge.source not in path:
            target = self.replicas[path[edge.target]].device
            return _Hop(self.network.entering(edge.source, self.entry[target]).rtt_ms / 2e3)
        source, target = (self.replicas[path[s]].device for s in (edge.source, edge.target))
        if source == target:
            return _Hop(0.0)
        link = self.network.between(self.entry[source], self.entry[target])
        return _Hop(link.rtt_ms / 2e3, self._carried(edge, path)[1], link.capacity_mbps)

    def _on_frame(self, clock: float, what: tuple[_Request, str]) -> None:
        request, stage = what
        request.due[stage] -= 1
        if request.due[stage] <= 0 and not request.lost:
            self._arrive(clock, request, stage)

    def _arrive(self, clock: float, request: _Request, stage: str) -> None:
        replica = self.replicas[request.path[stage]]
        if self.servers[replica.device].down:
            self._lose(request)
        elif not self.times.known(self.profiles[replica.id]):
            self._finish(clock, request, stage)
        else:
            queue = self.servers[replica.device].queues.setdefault(replica.id, deque())
            queue.extend([(clock, request)] * request.items[stage])
            if replica.batch_timeout_ms > 0:
                self._at(clock + replica.batch_timeout_ms / 1e3, "check", replica.device)
            self._start(clock, replica.device)

    def _finish(self, clock: float, request: _Request, stage: str) -> None:
        request.open -= 1
        self._pass_on(clock, request, stage)
        self._close_if_done(clock, request)

    def _close_if_done(self, clock: float, request: _Request) -> None:
        if request.open <= 0 and not request.lost:
            request.lost = True
            self.done.append((request.born, clock))

    def _lose(self, request: _Request) -> None:
        if not request.lost:
            request.lost = True
            self.lost += 1

    # --- devices -------------------------------------------------------------------------------------------------

    def _on_check(self, clock: float, device: str) -> None:
        self._start(clock, device)

    def _start(self, clock: float, device: str) -> None:
        """Start what may start: one batch on a device that is free, and every batch as a function."""
        server = self.servers[device]
        while not server.down and not server.taken:
            first: tuple[float, str] | None = None
            for name, queue in server.queues.items():
                if queue and self._may_start(clock, name, queue):
                    one = (queue[0][0], name)
                    first = one if first is None or one < first else first
            if first is None:
                return
            self._serve(clock, server, self.replicas[first[1]])

    def _serve(self, clock: float, server: _Server, replica: Replica) -> None:
        queue = server.queues[replica.id]
        size = min(replica.batch_size, len(queue))
        seconds = at(self.times.of(self.profiles[replica.id], size), self.random.random())
        if server.terms is not None:
            seconds += self._cold_start(server.terms)
            server.paid_usd += _call_usd(server.terms, replica, seconds)
        server.taken = server.terms is None
        server.busy_s += seconds
        self.count += 1
        server.serving[self.count] = [queue.popleft()[1] for _ in range(size)]
        self._at(clock + seconds, "served", (replica.device, replica.stage, self.count))

    def _cold_start(self, terms: Serverless) -> float:
        cold = terms.cold_start
        return cold.seconds if cold is not None and self.random.random() < cold.share else 0.0

    def _may_start(self, clock: float, name: str, queue: deque[tuple[float, _Request]]) -> bool:
        replica = self.replicas[name]
        waited = clock - queue[0][0]
        return len(queue) >= replica.batch_size or waited >= replica.batch_timeout_ms / 1e3 - 1e-9

    def _profile(self, replica: Replica) -> _Key:
        memory = replica.function.memory_mb if replica.function is not None else None
        return replica.stage, replica.variant, self.entry[replica.device], memory

    def _on_served(self, clock: float, what: tuple[str, str, int]) -> None:
        device, stage, batch = what
        server = self.servers[device]
        if server.down:
            return
        server.taken = False
        for request in server.serving.pop(batch):
            request.left[stage] -= 1
            if request.left[stage] == 0 and not request.lost:
                self._finish(clock, request, stage)
        self._start(clock, device)

    def _on_fail(self, clock: float, device: str) -> None:
        del clock
        server = self.servers[device]
        server.down = True
        waiting = (request for queue in server.queues.values() for _, request in queue)
        running = (request for batch in server.serving.values() for request in batch)
        for request in (*waiting, *running):
            self._lose(request)
        server.queues.clear()
        server.serving.clear()

    # --- figures -------------------------------------------------------------------------------------------------

    def _outcome(self, rate: float, clock: float) -> SimulatedOutcome:
        self.done.sort()
        counted = self.done[int(len(self.done) * WARM_UP) :]
        latencies = sorted(end - born for born, end in counted)
        ends = sorted(end for _, end in counted)
        span = ends[-1] - ends[0] if len(ends) > 1 else 0.0
        return SimulatedOutcome(
            offered_rps=rate,
            throughput_rps=(len(ends) - 1) / span if span > 0 else 0.0,
            latency_ms={name: _pick(latencies, q) * 1e3 for name, q in PERCENTILES.items()}
            if latencies
            else {},
            busy={
                d: s.busy_s / clock if clock else 0.0
                for d, s in sorted(self.servers.items())
                if s.terms is None
            },
            completed=len(self.done),
            lost=self.lost,
            moved_to_backup=self.moved,
            accuracy=self.plan.accuracy,
            servers={
                d: s.busy_s / clock if clock else 0.0
                for d, s in sorted(self.servers.items())
                if s.terms is not None
            },
            serverless_per_hour=sum(s.paid_usd for s in self.servers.values()) / clock * 3600
            if clock
            else 0.0,
        )


def _call_usd(terms: Serverless, replica: Replica, seconds: float) -> float:
    gigabytes = (replica.memory_mb or 0.0) / 1024
    return seconds * gigabytes * terms.usd_per_gb_second + terms.usd_per_call


def _pick(ordered: Sequence[float], level: float) -> float:
    return ordered[min(int(level * len(ordered)), len(ordered) - 1)]


def _entries(problem: Problem) -> dict[str, str]:
    return {name: d.name for d in problem.devices for name in members(d)}


_Key: TypeAlias = tuple[str, str | None, str, float | None]
"""A stage, its variant, the device's name in the problem, and the memory size of a function."""


class _Times:
    """Batch times by profile; a batch of a size that was not measured takes a time between its neighbours'."""

    def __init__(self, problem: Problem) -> None:
        functions = {d.name for d in problem.devices if d.serverless is not None}
        self._measured: dict[_Key, Sequence[BatchTime]] = {
            (
                p.stage,
                p.variant,
                p.device,
                p.memory_mb if p.device in functions else None,
            ): sorted(p.batches, key=lambda b: b.batch_size)
            for p in problem.profiles
        }
        self._known: dict[tuple[_Key, int], Curve] = {}

    def known(self, key: _Key) -> bool:
        """Whether the profile is there; a stage without one takes no time."""
        return key in self._measured

    def of(self, key: _Key, size: int) -> Curve:
        """How long a batch takes, by chance."""
        if (key, size) not in self._known:
            self._known[key, size] = curve(_interpolated(self._measured[key], size))
        return self._known[key, size]


def _interpolated(measured: Sequence[BatchTime], size: int) -> BatchTime:
    above = next((b for b in measured if b.batch_size >= size), measured[-1])
    below = next((b for b in reversed(measured) if b.batch_size <= size), above)
    if below.batch_size >= above.batch_size:
        return above
    part = (size - below.batch_size) / (above.batch_size - below.batch_size)
    return BatchTime(
        batch_size=size,
        mean=below.mean + part * (above.mean - below.mean),
        percentiles={
            name: seconds + part * (above.percentiles[name] - seconds)
            for name, seconds in below.percentiles.items()
            if name in above.percentiles
        },
    )
