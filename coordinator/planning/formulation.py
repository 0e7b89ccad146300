"""The planning problem as a mixed-integer program, by device class and by site.

Per *strand* (a combination of variants, and where the DAG has an undirected cycle the sites of the stages that close
it): `q` is its share of the requests, `P` the share that each stage serves at each site, `g` the flow on each edge
between sites. Per candidate: `r`, the items per second of a stage's variant on a device class. Per class: `z`, how
many of its devices are used. Inside a site devices are interchangeable, so a plan for devices can always be read off
(`placement`, `lanes`). All shares are scaled by `theta`, the part of the asked rate that is served, which is 1 unless
throughput is the objective.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from coordinator.planning.instance import Branch, Candidate, DeviceClass, Instance, Site
from coordinator.planning.latency_floor import key_of, too_slow
from coordinator.planning.options import Options, PlanObjective
from coordinator.planning.solver import Program
from coordinator.planning.traffic import Traffic
from coordinator.planning.variant_combinations import Strand, closing_stages, is_plain
from tiermesh.documents.problem import Asks, ProblemEdge
from tiermesh.errors import LimitExceeded

Terms = list[tuple[int, float]]

SHARED: Final = ""
"""The slot of a class whose devices may serve every stage; under `exclusive` each stage has its own."""

FLOWS: Final = 1_000_000
THETA_LIMIT: Final = 1e6
THETA_LEAST: Final = 1e-4
"""A plan that serves less than this part of what is asked serves nothing."""


@dataclass
class Columns:
    """Where each variable is in the program."""

    theta: int = -1
    share: list[int] = field(default_factory=list[int])
    at_site: dict[tuple[int, str, int], int] = field(
        default_factory=dict[tuple[int, str, int], int]
    )
    flow: dict[tuple[int, int, int, int], int] = field(
        default_factory=dict[tuple[int, int, int, int], int]
    )
    rate: list[int] = field(default_factory=list[int])
    used: dict[tuple[int, str], int] = field(default_factory=dict[tuple[int, str], int])
    loaded: dict[int, int] = field(default_factory=dict[int, int])
    present: dict[int, int] = field(default_factory=dict[int, int])
    chosen: dict[int, int] = field(default_factory=dict[int, int])


class Formulation:
    """Builds the program of an instance under options; `columns` says where each variable is.

    `branches` restricts the combinations (all of them when None), `busy_at_most` the usable share of every device.
    """

    def __init__(
        self,
        instance: Instance,
        options: Options,
        branches: Sequence[Branch] | None = None,
        asks: Asks | None = None,
        busy_at_most: float = 1.0,
    ) -> None:
        self.instance = instance
        self.options = options
        self.asks = asks or instance.problem.asks
        self.branches = _allowed(instance.branches if branches is None else branches, self.asks)
        self.busy_at_most = busy_at_most
        self.program = Program()
        self.columns = Columns()
        self.cost: Terms = []
        self.watts: Terms = []
        self.traffic = Traffic(instance, self.program, self.cost)
        self.strands = self._strands()
        self._build()

    def _build(self) -> None:
        self._add_shares()
        self._add_devices()
        self._add_rates()
        self._add_requests()
        self._tie_rates_to_sites()
        self._pin()
        self._add_memory()
        self._add_stateful()
        self._choose_single()
        self._bound_traffic()
        self._add_churn()
        self._add_asks()
        self._set_objective()

    # --- strands -------------------------------------------------------------------------------------------------

    def _strands(self) -> list[Strand]:
        closing = closing_stages(self.instance)
        strands: list[Strand] = []
        for branch in self.branches:
            ladders = [self._sites(branch, stage) for stage in closing]
            for choice in itertools.product(*ladders):
                fixed = {s: site.index for s, site in zip(closing, choice, strict=True)}
                strands.append(Strand(branch, fixed))
        return strands

    def _sites(self, branch: Branch, stage: str) -> list[Site]:
        variant = self.instance.variant_in(branch, stage)
        return self.instance.sites_of(stage, variant)

    # --- shares, rates, flows ------------------------------------------------------------------------------------

    def _add_shares(self) -> None:
        program, columns = self.program, self.columns
        self.theta_max = self._theta_max()
        free = self.options.objective is PlanObjective.THROUGHPUT
        columns.theta = program.column(
            lower=THETA_LEAST if free else 1.0, upper=self.theta_max if free else 1.0
        )
        columns.share = [program.column(upper=self.theta_max) for _ in self.strands]
        program.equal([*((c, 1.0) for c in columns.share), (columns.theta, -1.0)])

    def _theta_max(self) -> float:
        """The largest part of the asked rate that any plan could serve."""
        if self.options.objective is not PlanObjective.THROUGHPUT:
            return 1.0
        instance, limits = self.instance, [THETA_LIMIT]
        for stage, candidates in instance.by_stage.items():
            least = min((b.rates[stage] for b in self.branches), default=0.0)
            if least <= 0 or not candidates or min(c.seconds for c in candidates) <= 0:
                continue
            best: dict[int, float] = {}
            for c in candidates:
                best[c.device_class] = max(best.get(c.device_class, 0.0), 1 / c.booked_s)
            limits.append(
                sum(
                    rate * instance.classes[i].count * instance.classes[i].like.usable_share
                    for i, rate in best.items()
                )
                / least
            )
        return min(limits)

    def _add_devices(self) -> None:
        program, columns = self.program, self.columns
        for device_class in self.instance.classes:
            slots = sorted({self.slot(c) for c in self._on(device_class)})
            for slot in slots:
                pinned = slot == SHARED and self.instance.pinned_to(device_class)
                pinned = pinned or device_class.serverless
                count = device_class.count
                used = program.column(lower=count if pinned else 0, upper=count, integer=True)
                columns.used[device_class.index, slot] = used
                self.cost.append((used, device_class.like.price_per_hour))
                self.watts.append((used, device_class.like.watts_idle))
            if len(slots) > 1:
                terms = [(columns.used[device_class.index, slot], 1.0) for slot in slots]
                program.row(terms, upper=device_class.count)

    def slot(self, candidate: Candidate) -> str:
        """Which of a class's devices a candidate runs on: any, or under `exclusive` those of its stage."""
        return candidate.stage if self.options.exclusive and candidate.seconds > 0 else SHARED

    def _on(self, device_class: DeviceClass) -> Iterable[Candidate]:
        return self._by_class[device_class.index]

    @cached_property
    def _by_class(self) -> dict[int, list[Candidate]]:
        found: defaultdict[int, list[Candidate]] = defaultdict(list)
        for candidate in self.instance.candidates:
            found[candidate.device_class].append(candidate)
        return found

    def top_rate(self, stage: str) -> float:
        """The largest rate that a stage can have."""
        return max((b.rates[stage] for b in self.branches), default=0.0) * self.theta_max

    def _add_rates(self) -> None:
        """Rates per candidate; the load of a class's devices stays within their usable share."""
        program, columns = self.program, self.columns
        loads: defaultdict[tuple[int, str], Terms] = defaultdict(list)
        for candidate in self.instance.candidates:
            rate = program.column(upper=self.top_rate(candidate.stage))
            columns.rate.append(rate)
            if candidate.usd_per_item:
                self.cost.append((rate, candidate.usd_per_item * 3600))
            like = self.instance.classes[candidate.device_class].like
            key = (candidate.device_class, self.slot(candidate))
            if candidate.seconds > 0:
                loads[key].append((rate, candidate.booked_s))
                extra = max(like.watts_busy - like.watts_idle, 0.0)
                self.watts.append((rate, candidate.seconds * extra))
            else:
                self._hold(rate, candidate)
        for key, terms in loads.items():
            share = min(self.instance.classes[key[0]].like.usable_share, self.busy_at_most)
            program.row([*terms, (columns.used[key], -share)], upper=0.0)

    def _hold(self, rate: int, candidate: Candidate) -> None:
        """A stage that takes no time still needs a device that is used."""
        slots = [c for (i, _), c in self.columns.used.items() if i == candidate.device_class]
        top = self.top_rate(candidate.stage)
        if top > 0:
            self.program.row([(rate, 1.0), *((c, -top) for c in slots)], upper=0.0)

    def _add_requests(self) -> None:
        self._refuse_too_large()
        for number, strand in enumerate(self.strands):
            self._add_strand(number, strand)

    def _refuse_too_large(self) -> None:
        """A program that would not fit into memory is better refused than begun."""
        pairs = sum(
            len(self.instance.sites_of(edge.source, None))
            * len(self.instance.sites_of(edge.target, None))
            for edge, plain in zip(self.instance.edges, self._edge_is_plain, strict=True)
            if not plain and {edge.source, edge.target} <= self.instance.by_stage.keys()
        )
        if pairs * len(self.strands) > FLOWS:
            raise LimitExceeded(
                f"the problem has {pairs * len(self.strands)} flows to decide",
                why=f"the limit is {FLOWS}; devices with links of their own are each a site",
                fix="Give links by tier where devices are alike, or offer fewer combinations",
            )

    def _add_strand(self, number: int, strand: Strand) -> None:
        columns, program = self.columns, self.program
        for stage in self.instance.placed:
            fixed = strand.fixed.get(stage)
            for site in self._sites(strand.branch, stage):
                if fixed is None or site.index == fixed:
                    key = (number, stage, site.index)
                    columns.at_site[key] = program.column(upper=self.theta_max)
            terms = [(c, 1.0) for _, c in self.stage_sites(number, stage)]
            program.equal([*terms, (columns.share[number], -1.0)])
        for index, edge in enumerate(self.instance.edges):
            self._add_edge(number, strand, index, edge)

    def stage_sites(self, number: int, stage: str) -> list[tuple[int, int]]:
        """(site, column) of a strand's stage."""
        found = ((site.index, (number, stage, site.index)) for site in self.instance.sites)
        return [(s, self.columns.at_site[key]) for s, key in found if key in self.columns.at_site]

    def _add_edge(self, number: int, strand: Strand, index: int, edge: ProblemEdge) -> None:
        rate = self.instance.bytes_per_second(edge, strand.branch)
        placed = self.instance.by_stage
        if edge.source not in placed or edge.target not in placed:
            self._add_outside(number, rate, edge)
        elif not self._edge_is_plain[index]:
            self._add_flows(number, rate, index, edge)

    @cached_property
    def _edge_is_plain(self) -> list[bool]:
        return [is_plain(self.instance, edge) for edge in self.instance.edges]

    def _add_outside(self, number: int, rate: float, edge: ProblemEdge) -> None:
        entering = edge.target in self.instance.by_stage
        inside = edge.target if entering else edge.source
        if inside in self.instance.by_stage:
            self._cross_border(edge, rate, self.stage_sites(number, inside))

    def _cross_border(self, edge: ProblemEdge, rate: float, columns: list[tuple[int, int]]) -> None:
        """Traffic between a stage outside the fleet and the sites (site, column) of one inside."""
        network, entering = self.instance.network, edge.target in self.instance.by_stage
        outside = edge.source if entering else edge.target
        for site, column in columns:
            like = self.instance.sites[site].like
            link = network.entering(outside, like) if entering else network.leaving(like, outside)
            self.traffic.use(link, column, rate, *((None, site) if entering else (site, None)))

    def _add_flows(self, number: int, rate: float, index: int, edge: ProblemEdge) -> None:
        program, columns, sites = self.program, self.columns, self.instance.sites
        out: defaultdict[int, Terms] = defaultdict(list)
        into: defaultdict[int, Terms] = defaultdict(list)
        targets = self.stage_sites(number, edge.target)
        sources = self.stage_sites(number, edge.source)
        for (source, _), (target, _) in itertools.product(sources, targets):
            link = self.instance.link(sites[source], sites[target])
            if not link.allowed:
                continue
            flow = columns.flow[number, index, source, target] = program.column(
                upper=self.theta_max
            )
            self.traffic.use(link, flow, rate, source, target)
            out[source].append((flow, 1.0))
            into[target].append((flow, 1.0))
        for site, column in sources:
            program.equal([*out[site], (column, -1.0)])
        for site, column in targets:
            program.equal([*into[site], (column, -1.0)])

    def _bound_traffic(self) -> None:
        used: defaultdict[int, list[int]] = defaultdict(list)
        for (index, _), column in self.columns.used.items():
            used[index].append(column)
        self.traffic.bound(used)

    # --- classes -------------------------------------------------------------------------------------------------

    def _tie_rates_to_sites(self) -> None:
        """What the strands serve of a stage (and variant) at a site is done by the classes of that site."""
        served = self._served_terms()
        done: defaultdict[tuple[str, str | None, int], Terms] = defaultdict(list)
        for candidate, rate in zip(self.instance.candidates, self.columns.rate, strict=True):
            site = self.instance.classes[candidate.device_class].site
            key = candidate.variant if self.instance.deciding(candidate.stage) else None
            done[candidate.stage, key, site].append((rate, 1.0))
        for key in dict.fromkeys([*served, *done]):
            self.program.equal([*done[key], *served.get(key, [])])

    def _served_terms(self) -> dict[tuple[str, str | None, int], Terms]:
        """Per stage, variant and site: minus the items per second that the strands serve there."""
        served: defaultdict[tuple[str, str | None, int], Terms] = defaultdict(list)
        for (number, stage, site), column in self.columns.at_site.items():
            branch = self.strands[number].branch
            variant = self._variant_key(stage, branch)
            served[stage, variant, site].append((column, -branch.rates[stage]))
        return served

    def _variant_key(self, stage: str, branch: Branch) -> str | None:
        return branch.combo.variants[stage] if self.instance.deciding(stage) else None

    def _pin(self) -> None:
        """A pinned stage's requests enter at its devices by the shares given."""
        for stage in self.instance.placed:
            if not self.instance.stages[stage].pinned:
                continue
            pairs = zip(self.strands, self.columns.share, strict=True)
            total = [(share, strand.branch.rates[stage]) for strand, share in pairs]
            for candidate, column in self.rates_of(stage):
                part = self.instance.pinned_share(
                    stage, self.instance.classes[candidate.device_class]
                )
                self.program.equal([(column, 1.0), *((c, -part * rate) for c, rate in total)])

    def rates_of(self, stage: str) -> Iterator[tuple[Candidate, int]]:
        """The candidates of a stage with the columns of their rates."""
        for candidate, column in zip(self.instance.candidates, self.columns.rate, strict=True):
            if candidate.stage == stage:
                yield candidate, column

    def _add_memory(self) -> None:
        """Where not everything fits into a device's memory, what is loaded is a choice."""
        for device_class in self.instance.classes:
            here = [
                i
                for i, c in enumerate(self.instance.candidates)
                if c.device_class == device_class.index
            ]
            for slot in sorted({self.slot(self.instance.candidates[i]) for i in here}):
                mine = [i for i in here if self.slot(self.instance.candidates[i]) == slot]
                wanted = sum(self.instance.candidates[i].memory_mb for i in mine)
                room = device_class.like.memory_mb
                if room is not None and wanted > room:
                    self._limit_memory(mine, room)

    def _limit_memory(self, candidates: list[int], room: float) -> None:
        memory = {i: self.instance.candidates[i].memory_mb for i in candidates}
        terms = [(self.present(i), mb) for i, mb in memory.items() if mb > 0]
        self.program.row(terms, upper=room)

    def present(self, i: int) -> int:
        """The column that is 1 where candidate `i` may be on any device of its class."""
        if i not in self.columns.present:
            candidate = self.instance.candidates[i]
            count = self.instance.classes[candidate.device_class].count
            if count == 1:
                self.columns.present[i] = self.load(i)
            else:
                column = self.program.column(upper=1.0, integer=True)
                self.columns.present[i] = column
                top = self.top_rate(candidate.stage)
                self.program.row([(self.columns.rate[i], 1.0), (column, -top)], upper=0.0)
        return self.columns.present[i]

    def load(self, i: int) -> int:
        """The column that counts the devices on which candidate `i` is loaded."""
        if i not in self.columns.loaded:
            candidate = self.instance.candidates[i]
            device_class = self.instance.classes[candidate.device_class]
            column = self.program.column(upper=device_class.count, integer=True)
            self.columns.loaded[i] = column
            top = self.top_rate(candidate.stage)
            if candidate.seconds > 0:
                top = min(top, device_class.like.usable_share / candidate.booked_s)
            self.program.row([(self.columns.rate[i], 1.0), (column, -top)], upper=0.0)
            used = self.columns.used[device_class.index, self.slot(candidate)]
            self.program.row([(column, 1.0), (used, -1.0)], upper=0.0)
        return self.columns.loaded[i]

    def _add_stateful(self) -> None:
        """A stateful stage runs as one replica: one variant on one device."""
        for stage in self.instance.placed:
            if not self.instance.stages[stage].stateful:
                continue
            chosen: Terms = []
            for candidate, rate in self.rates_of(stage):
                device_class = self.instance.classes[candidate.device_class]
                single = 1.0 if device_class.count == 1 else 0.0
                column = self.program.column(upper=single, integer=True)
                chosen.append((column, 1.0))
                like = device_class.like
                top = self.top_rate(stage)
                if candidate.seconds > 0:
                    top = min(top, like.usable_share / candidate.booked_s)
                self.program.row([(rate, 1.0), (column, -top)], upper=0.0)
            self.program.equal(chosen, 1.0)

    def _choose_single(self) -> None:
        """Under `single_variant`, one combination takes all requests, and one variant each other stage."""
        if not self.options.single_variant:
            return
        by_branch: defaultdict[int, Terms] = defaultdict(list)
        for strand, share in zip(self.strands, self.columns.share, strict=True):
            by_branch[strand.branch.index].append((share, 1.0))
        if len(by_branch) > 1:
            for index, terms in by_branch.items():
                chosen = self.columns.chosen[index] = self.program.column(upper=1.0, integer=True)
                self.program.row([*terms, (chosen, -self.theta_max)], upper=0.0)
            self.program.equal([(c, 1.0) for c in self.columns.chosen.values()], 1.0)
        for stage in self.instance.placed:
            if len(self.instance.stages[stage].variants) > 1 and not self.instance.deciding(stage):
                self._choose_variant(stage)

    def _choose_variant(self, stage: str) -> None:
        by_variant: defaultdict[str | None, Terms] = defaultdict(list)
        for candidate, rate in self.rates_of(stage):
            by_variant[candidate.variant].append((rate, 1.0))
        chosen: Terms = []
        for terms in by_variant.values():
            column = self.program.column(upper=1.0, integer=True)
            chosen.append((column, 1.0))
            self.program.row([*terms, (column, -self.top_rate(stage))], upper=0.0)
        self.program.equal(chosen, 1.0)

    # --- asks and objective --------------------------------------------------------------------------------------

    def _add_churn(self) -> None:
        price = self.instance.problem.terms.churn_per_start
        if not price:
            return
        for i, candidate in enumerate(self.instance.candidates):
            running = running_on(self.instance, candidate)
            started = self.program.column(cost=0.0)
            self.cost.append((started, price))
            self.program.row([(self.load(i), 1.0), (started, -1.0)], upper=running)

    def _add_asks(self) -> None:
        asks, row = self.asks, self.program.row
        if asks.accuracy_at_least is not None and not asks.every_request:
            terms = self.accuracy_terms()
            terms.append((self.columns.theta, -asks.accuracy_at_least))
            row(terms, lower=0.0)
        if asks.latency_s:
            self._limit_slow()
        if asks.cost_per_hour_at_most is not None:
            row(self.cost, upper=asks.cost_per_hour_at_most)
        if asks.watts_at_most is not None:
            row(self.watts, upper=asks.watts_at_most)

    def _limit_slow(self) -> None:
        """What cannot be quick enough takes no more than the part of the requests that need not be."""
        for slow in too_slow(self.instance):
            terms = [
                (column, slow.parts[key_of(candidate)])
                for candidate, column in zip(
                    self.instance.candidates, self.columns.rate, strict=True
                )
                if slow.parts.get(key_of(candidate))
            ]
            most = slow.most * self.instance.request_rate
            self.program.row([*terms, (self.columns.theta, -most)], upper=0.0)

    def accuracy_terms(self) -> Terms:
        """The mean accuracy over requests, times `theta`."""
        pairs = zip(self.strands, self.columns.share, strict=True)
        return [(share, strand.branch.combo.accuracy or 0.0) for strand, share in pairs]

    def _set_objective(self) -> None:
        energy = self.instance.problem.terms.price_per_kwh / 1000
        paid = [*self.cost, *((c, w * energy) for c, w in self.watts)]
        terms: Terms = {
            PlanObjective.COST: paid,
            PlanObjective.LATENCY: paid,
            PlanObjective.POWER: self.watts,
            PlanObjective.ACCURACY: [(c, -a) for c, a in self.accuracy_terms()],
            PlanObjective.THROUGHPUT: [(self.columns.theta, -self.instance.request_rate)],
        }[self.options.objective]
        for column, coefficient in terms:
            self.program.cost[column] += coefficient


def running_on(instance: Instance, candidate: Candidate) -> int:
    """How many devices of the candidate's class run it already."""
    names = set(instance.classes[candidate.device_class].members)
    return sum(
        r.stage == candidate.stage and r.variant == candidate.variant and r.device in names
        for r in instance.problem.running
    )


def _allowed(branches: Iterable[Branch], asks: Asks) -> list[Branch]:
    if not asks.every_request or asks.accuracy_at_least is None:
        return list(branches)
    least = asks.accuracy_at_least
    return [b for b in branches if b.combo.accuracy is not None and b.combo.accuracy >= least]
