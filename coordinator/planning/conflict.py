"""Why there is no plan: the smallest set of asks that clash, and how near to each a plan can come.

An ask is anything of the problem that could be given up: a target, a ceiling, the rates, a restriction of where
stages run or data flows, a rule of the options. Giving asks up one by one leaves a set of which every one is
needed for the clash; smaller sets are then tried by size. Last, each ask of the set is given up alone, and made as
good as the rest allow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from coordinator.planning import exact, failover, slo
from coordinator.planning.building import build
from coordinator.planning.exact import Found
from coordinator.planning.instance import Instance
from coordinator.planning.margin import DeviceTimeMargin, most_confident
from coordinator.planning.options import Options, PlanObjective
from tiermesh.documents.problem import DefaultLink, Problem, ProblemDevice, ProblemStage
from tiermesh.errors import Infeasible

EFFORT_S: Final = 4.0
GAP: Final = 1e-6
LEVELS: Final = (0.6, 0.15)
"""How busy devices may be in the plans that are tried; fewer levels than planning tries, for the sake of time."""
TRIED_CLASSES: Final = 8
MORE_DEVICES: Final = (1, 2, 3, 4)

Change = Callable[[Problem, Options], tuple[Problem, Options]]


@dataclass(frozen=True)
class Constraint:
    """Something asked: its name, its value in words, and the problem and options without it."""

    name: str
    asked: str
    without: Change


@dataclass(frozen=True)
class Nearest:
    """How near a plan comes to an ask when the rest holds; `value` is None where giving it up is not enough."""

    ask: Constraint
    value: str | None
    number: float | None = None


def explain(problem: Problem, options: Options) -> Infeasible:
    """The error that says why the problem has no plan."""
    options = replace(options, time_limit_s=EFFORT_S, gap=GAP)
    asks = list(_asks(problem, options))
    clash = _smallest(problem, options, asks)
    if not clash:
        return _unplaced(problem)
    nearest = [_nearest(problem, options, ask) for ask in clash]
    return Infeasible(
        "infeasible: constraints conflict",
        why=_sentence(clash, nearest),
        fix=_fix(problem, options, nearest),
        clash=[
            {"ask": n.ask.name, "asked": n.ask.asked, "nearest": n.value, "value": n.number}
            for n in nearest
        ],
    )


# --- asks --------------------------------------------------------------------------------------------------------


def _asks(problem: Problem, options: Options) -> Iterable[Constraint]:
    asks = problem.asks
    yield Constraint("rate", _rate_words(problem), lambda p, o: (_slow(p), o))
    if asks.accuracy_at_least is not None:
        every = " for every request" if asks.every_request else ""
        yield Constraint(
            "accuracy", f"{asks.accuracy_at_least:g}{every}", _drop(accuracy_at_least=None)
        )
    if asks.latency_s:
        words = ", ".join(f"{n} {s * 1e3:g} ms" for n, s in asks.latency_s.items())
        yield Constraint("latency", words, _drop(latency_s={}))
    margin = DeviceTimeMargin.of(problem, options)
    if margin is not None:
        words = f"{100 * margin.confidence:g} %"
        yield Constraint("confidence", words, lambda p, o: (p, replace(o, margin=False)))
    if asks.cost_per_hour_at_most is not None:
        yield Constraint(
            "cost", f"{asks.cost_per_hour_at_most:g} USD/h", _drop(cost_per_hour_at_most=None)
        )
    if asks.watts_at_most is not None:
        yield Constraint("power", f"{asks.watts_at_most:g} W", _drop(watts_at_most=None))
    if asks.any_device_lost is not None:
        yield Constraint("any-device-lost", "served when one is lost", _drop(any_device_lost=None))
    yield from _restrictions(problem, options)


def _drop(**asks: object) -> Change:
    def without(problem: Problem, options: Options) -> tuple[Problem, Options]:
        kept = msgspec.structs.replace(problem.asks, **asks)
        return msgspec.structs.replace(problem, asks=kept), options

    return without


def _restrictions(problem: Problem, options: Options) -> Iterable[Constraint]:
    if any(s.tiers or s.devices for s in problem.stages):
        yield Constraint(
            "places", "stages stay in their tiers and devices", lambda p, o: (_anywhere(p), o)
        )
    if problem.upward_only or _limited_links(problem):
        yield Constraint("links", "forbidden and full links", lambda p, o: (_open_links(p), o))
    if any(d.memory_mb is not None for d in problem.devices):
        yield Constraint("memory", "what devices hold", lambda p, o: (_roomy(p), o))
    if any(s.stateful for s in problem.stages):
        yield Constraint("state", "stateful stages in one replica", lambda p, o: (_stateless(p), o))
    if options.exclusive:
        yield Constraint(
            "exclusive", "one stage per device", lambda p, o: (p, replace(o, exclusive=False))
        )
    if options.single_variant:
        yield Constraint(
            "single-variant",
            "one variant per stage",
            lambda p, o: (p, replace(o, single_variant=False)),
        )


def _rate_words(problem: Problem) -> str:
    rates = [s.rate_rps for s in problem.stages if s.kind == "source" and s.rate_rps]
    return f"{max(rates):g}/s"


SLOWLY: Final = 1e-6


def _slow(problem: Problem) -> Problem:
    return _stages(
        problem,
        lambda s: msgspec.structs.replace(s, rate_rps=s.rate_rps * SLOWLY) if s.rate_rps else s,
    )


def _anywhere(problem: Problem) -> Problem:
    return _stages(problem, lambda s: msgspec.structs.replace(s, tiers=[], devices=[]))


def _stateless(problem: Problem) -> Problem:
    return _stages(problem, lambda s: msgspec.structs.replace(s, stateful=False))


def _stages(problem: Problem, change: Callable[[ProblemStage], ProblemStage]) -> Problem:
    return msgspec.structs.replace(problem, stages=[change(s) for s in problem.stages])


def _devices(problem: Problem, change: Callable[[ProblemDevice], ProblemDevice]) -> Problem:
    return msgspec.structs.replace(problem, devices=[change(d) for d in problem.devices])


def _roomy(problem: Problem) -> Problem:
    return _devices(problem, lambda d: msgspec.structs.replace(d, memory_mb=None))


def _limited_links(problem: Problem) -> bool:
    links = (*problem.links, problem.default_link)
    radios = any(d.uplink_mbps or d.downlink_mbps for d in problem.devices)
    return radios or any(not x.allowed or x.capacity_mbps is not None for x in links)


def _open_links(problem: Problem) -> Problem:
    default = problem.default_link
    opened = [msgspec.structs.replace(x, allowed=True, capacity_mbps=None) for x in problem.links]
    radioless = _devices(
        problem, lambda d: msgspec.structs.replace(d, uplink_mbps=None, downlink_mbps=None)
    )
    return msgspec.structs.replace(
        radioless,
        links=opened,
        default_link=DefaultLink(price_per_gib=default.price_per_gib, rtt_ms=default.rtt_ms),
        upward_only=False,
    )


# --- the clash ---------------------------------------------------------------------------------------------------


def _search(problem: Problem, options: Options) -> Found | None:
    if problem.asks.latency_s or options.objective is PlanObjective.LATENCY:
        checked = slo.search(problem, options, LEVELS)
        return checked.found if checked else None
    if problem.asks.any_device_lost is not None:
        return failover.search(_built(problem, options), options)
    return exact.search(_built(problem, options), options)


def _built(problem: Problem, options: Options) -> Instance:
    margin = DeviceTimeMargin.of(problem, options)
    return build(problem, exclusive=options.exclusive, margin=margin)


def _only(
    problem: Problem, options: Options, asks: Iterable[Constraint], given_up: Iterable[Constraint]
) -> bool:
    """Whether there is a plan when the asks `given_up` are given up."""
    kept = {ask.name for ask in asks}
    for ask in given_up:
        if ask.name not in kept:
            problem, options = ask.without(problem, options)
    return _search(problem, replace(options, objective=PlanObjective.COST)) is not None


def _smallest(problem: Problem, options: Options, asks: list[Constraint]) -> list[Constraint]:
    """The smallest set of asks that clash; empty where nothing helps."""
    if not _only(problem, options, [], asks):
        return []
    clash = list(asks)
    for ask in asks:
        fewer = [kept for kept in clash if kept is not ask]
        if not _only(problem, options, fewer, asks):
            clash = fewer
    for size in range(1, len(clash)):
        for kept in itertools.combinations(asks, size):
            if not _only(problem, options, kept, asks):
                return list(kept)
    return clash


def _unplaced(problem: Problem) -> Infeasible:
    """No ask is to blame: some stage can run nowhere."""
    measured = {p.stage for p in problem.profiles}
    stranded = [
        s.name for s in problem.stages if s.variants and not s.external and s.name not in measured
    ]
    names = ", ".join(f"`{name}`" for name in stranded)
    return Infeasible(
        "infeasible whichever constraint is dropped",
        why=(
            f"{names}: no device has a profile of any of its variants"
            if stranded
            else "no combination of variants with known accuracy fits on the devices"
        ),
        fix="Profile the variants on devices that can run them: coordinator profile",
        clash=[
            {"ask": "profiles", "asked": name, "nearest": None, "value": None} for name in stranded
        ],
    )


# --- the nearest -------------------------------------------------------------------------------------------------


def _nearest(problem: Problem, options: Options, ask: Constraint) -> Nearest:
    """Give the ask up and make it as good as the rest allows."""
    if ask.name == "confidence":
        return _nearest_confidence(problem, options, ask)
    objective = {
        "rate": PlanObjective.THROUGHPUT,
        "accuracy": PlanObjective.ACCURACY,
        "power": PlanObjective.POWER,
        "latency": PlanObjective.LATENCY,
    }.get(ask.name, PlanObjective.COST)
    given_up, rules = ask.without(problem, options) if ask.name != "rate" else (problem, options)
    if ask.name == "latency":
        checked = slo.search(given_up, replace(rules, objective=objective), LEVELS)
        return _nearest_latency(problem, ask, checked)
    found = _search(given_up, replace(rules, objective=objective))
    if found is None:
        return Nearest(ask, None)
    return _in_words(ask, found)


def _nearest_confidence(problem: Problem, options: Options, ask: Constraint) -> Nearest:
    margin = DeviceTimeMargin.of(problem, options)
    asked = margin.confidence if margin is not None else 1.0
    rules = replace(options, objective=PlanObjective.COST)
    found = most_confident(lambda c: _search(problem, replace(rules, confidence=c)), below=asked)
    if found is not None:
        return Nearest(ask, f"{100 * found[0]:g} %", found[0])
    return Nearest(ask, "given up" if _search(problem, replace(rules, margin=False)) else None)


def _in_words(ask: Constraint, found: Found) -> Nearest:
    from coordinator.planning import assemble

    draft = found.draft
    match ask.name:
        case "rate":
            rate = draft.instance.request_rate * draft.scale
            return Nearest(ask, f"{rate:.4g}/s", rate)
        case "accuracy":
            accuracy = assemble.accuracy(draft)
            return Nearest(ask, f"{accuracy:.4g}", accuracy)
        case "cost":
            cost = assemble.cost(draft).total_per_hour
            return Nearest(ask, f"{cost:.4g} USD/h", cost)
        case "power":
            watts = assemble.watts(draft)
            return Nearest(ask, f"{watts:.4g} W", watts)
        case _:
            return Nearest(ask, "given up")


def _nearest_latency(problem: Problem, ask: Constraint, checked: slo.Checked | None) -> Nearest:
    if checked is None:
        return Nearest(ask, None)
    seen = {name: checked.latency_s.get(name, 0.0) for name in problem.asks.latency_s}
    words = ", ".join(f"{name} {seconds * 1e3:.4g} ms" for name, seconds in seen.items())
    return Nearest(ask, words, max(seen.values(), default=None))


# --- words -------------------------------------------------------------------------------------------------------


def _sentence(clash: list[Constraint], nearest: list[Nearest]) -> str:
    if len(clash) == 1 and clash[0].name == "accuracy" and nearest[0].number is not None:
        return (
            f"accuracy {clash[0].asked} is above what any combination reaches "
            f"({nearest[0].number:.4g})"
        )
    names = " and ".join(f"{ask.name} ({ask.asked})" for ask in clash)
    return f"{names} cannot be met" + (" together" if len(clash) > 1 else "")


def _fix(problem: Problem, options: Options, nearest: list[Nearest]) -> str:
    ways = [
        f"{n.ask.name} {n.value}" if n.number is not None else f"without {n.ask.name}"
        for n in nearest
        if n.value is not None
    ]
    devices = _devices_needed(problem, options)
    if devices is not None:
        ways.insert(0, devices)
    return "A plan exists with " + ", or ".join(ways) if ways else ""


def _devices_needed(problem: Problem, options: Options) -> str | None:
    """The smallest number of further devices of one kind that is enough, the cheapest kind first."""
    kinds = sorted(problem.devices, key=lambda d: (d.price_per_hour, d.name))
    step = max(len(kinds) // TRIED_CLASSES, 1)
    for more in MORE_DEVICES:
        for device in kinds[::step]:
            larger = _with_more(problem, device, more)
            if larger is not None and _search(
                larger, replace(options, objective=PlanObjective.COST)
            ):
                return f"{more} more device{'s' * (more > 1)} like {device.name}"
    return None


def _with_more(problem: Problem, device: ProblemDevice, more: int) -> Problem | None:
    """The problem with further devices like one; None where the new ones would need a name that is taken."""
    name = f"{device.name}.more"
    if len(name) > NAME_CHARS or any(d.name == name for d in problem.devices):
        return None
    profiles = [
        msgspec.structs.replace(p, device=name) for p in problem.profiles if p.device == device.name
    ]
    links = [
        msgspec.structs.replace(
            x,
            source=name if x.source == device.name else x.source,
            target=name if x.target == device.name else x.target,
        )
        for x in problem.links
        if device.name in {x.source, x.target}
    ]
    return msgspec.structs.replace(
        problem,
        devices=[*problem.devices, msgspec.structs.replace(device, name=name, count=more)],
        profiles=[*problem.profiles, *profiles],
        links=[*problem.links, *links],
    )


NAME_CHARS: Final = 64
