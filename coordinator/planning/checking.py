"""Whether a problem makes sense: names that exist, a DAG, numbers that arithmetic survives."""

from __future__ import annotations

import graphlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Final, NoReturn

from tiermesh import limits
from tiermesh.documents.problem import (
    Arrivals,
    OperatorAccuracy,
    Problem,
    ProblemDevice,
    ProblemStage,
)
from tiermesh.documents.reading import to_plain
from tiermesh.errors import InvalidDocument, LimitExceeded

LARGEST: Final = 1e12
SHORTEST_S: Final = 1e-7
PIN_TOLERANCE: Final = 1e-6


def check(problem: Problem) -> None:
    """Check what the schema cannot say.

    Raises:
        InvalidDocument: with `path`, the place of the field that is wrong.
        LimitExceeded: more devices than `limits.DEVICES`.
    """
    _check_numbers(to_plain(problem), "$")
    _check_names(problem)
    _check_stages(problem)
    _check_graph(problem)
    _check_links(problem)
    _check_profiles(problem)
    _check_accuracy(problem)


def members(device: ProblemDevice) -> tuple[str, ...]:
    """The names of the devices that an entry stands for."""
    if device.count == 1:
        return (device.name,)
    return tuple(f"{device.name}.{i}" for i in range(1, device.count + 1))


def _wrong(path: str, why: str, fix: str = "") -> NoReturn:
    raise InvalidDocument(f"the problem is wrong at `{path}`", why=why, fix=fix, path=path)


def _check_numbers(value: Any, path: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():  # pyright: ignore[reportUnknownVariableType]
            _check_numbers(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            _check_numbers(inner, f"{path}[{i}]")
    elif isinstance(value, (int, float)) and not abs(value) <= LARGEST:
        _wrong(path, f"{value} is beyond {LARGEST:g}", "Check its unit")


def _check_names(problem: Problem) -> None:
    devices = [name for device in problem.devices for name in members(device)]
    if len(devices) > limits.DEVICES:
        raise LimitExceeded(
            f"the problem has {len(devices)} devices",
            why=f"the limit is {limits.DEVICES}",
            limit="DEVICES",
        )
    _unique(problem.tiers, "$.tiers")
    _unique([*devices, *(d.name for d in problem.devices if d.count > 1)], "$.devices")
    _unique([s.name for s in problem.stages], "$.stages")
    for i, device in enumerate(problem.devices):
        _known(device.tier, problem.tiers, f"$.devices[{i}].tier", "tier")
        if device.serverless is not None:
            _check_serverless(device, f"$.devices[{i}]")


def _check_serverless(device: ProblemDevice, at: str) -> None:
    """Functions are paid for by use, and there is no end of them."""
    plain = ProblemDevice(name=device.name, tier=device.tier, serverless=device.serverless)
    for field in ("count", "price_per_hour", "memory_mb", "usable_share"):
        if getattr(device, field) != getattr(plain, field):
            _wrong(
                f"{at}.{field}",
                "a serverless device is paid for by use and has no end",
                "Leave it out; prices are in `serverless`, memory sizes in the profiles",
            )


def _unique(names: Iterable[str], path: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            _wrong(path, f"the name `{name}` is there twice", "Give each a unique name")
        seen.add(name)


def _known(name: str, allowed: Iterable[str], path: str, what: str) -> None:
    names = list(allowed)
    if name not in names:
        shown = ", ".join(names[:12]) + (" ..." if len(names) > 12 else "")
        _wrong(path, f"there is no {what} `{name}`", f"Allowed: {shown or 'none'}")


def _check_stages(problem: Problem) -> None:
    devices = {d.name: None for d in problem.devices}
    for i, stage in enumerate(problem.stages):
        at = f"$.stages[{i}]"
        _unique(stage.variants, f"{at}.variants")
        for name in (*stage.devices, *stage.pinned):
            _known(name, devices, at, "device")
        for tier in stage.tiers:
            _known(tier, problem.tiers, f"{at}.tiers", "tier")
        _check_stage(stage, at)


def _check_stage(stage: ProblemStage, at: str) -> None:
    if stage.kind == "model" and not stage.variants:
        _wrong(f"{at}.variants", "a model stage needs at least one variant")
    if stage.external and stage.kind not in ("source", "sink"):
        _wrong(f"{at}.external", f"a {stage.kind} stage cannot be outside the fleet")
    if stage.kind == "source" and not stage.rate_rps:
        _wrong(f"{at}.rate_rps", "a source needs a rate above zero")
    if isinstance(stage.arrivals, Arrivals):
        _check_arrivals(stage.arrivals, f"{at}.arrivals")
    if stage.pinned and abs(sum(stage.pinned.values()) - 1.0) > PIN_TOLERANCE:
        _wrong(f"{at}.pinned", f"the shares sum to {sum(stage.pinned.values()):g}", "Make it 1")


def _check_arrivals(arrivals: Arrivals, at: str) -> None:
    given, times = arrivals.map, arrivals.trace_s
    if (given is None) == (not times):
        _wrong(at, "it must have either `map` or `trace_s`")
    if given is not None:
        rows = (*given.D0, *given.D1)
        sizes = {len(given.D0), len(given.D1), *(len(row) for row in rows)}
        if len(sizes) != 1 or not 1 <= max(sizes) <= limits.MAP_PHASES:
            _wrong(f"{at}.map", "D0 and D1 must be square, of one size of 1 to 64")
    elif times[0] == times[-1] or any(a > b for a, b in itertools.pairwise(times)):
        _wrong(f"{at}.trace_s", "it must be ascending seconds, not all of them equal")


def _check_graph(problem: Problem) -> None:
    stages = {s.name: s for s in problem.stages}
    inputs: dict[str, list[str]] = {name: [] for name in stages}
    for i, edge in enumerate(problem.edges):
        for name in (edge.source, edge.target):
            _known(name, stages, f"$.edges[{i}]", "stage")
        if edge.source in inputs[edge.target]:
            _wrong(f"$.edges[{i}]", f"`{edge.source}` to `{edge.target}` is there twice")
        inputs[edge.target].append(edge.source)
    try:
        tuple(graphlib.TopologicalSorter(inputs).static_order())
    except graphlib.CycleError as error:
        _wrong("$.edges", "the stages form a cycle: " + " -> ".join(reversed(error.args[1])))
    for i, stage in enumerate(problem.stages):
        if (stage.kind == "source") != (not inputs[stage.name]):
            _wrong(f"$.stages[{i}]", "sources, and only sources, have no input")
    if all(stage.external for stage in problem.stages):
        _wrong("$.stages", "every stage is outside the fleet, so there is nothing to plan")


def _check_links(problem: Problem) -> None:
    external = (s.name for s in problem.stages if s.external)
    known = {d.name for d in problem.devices} | set(problem.tiers) | set(external)
    for i, link in enumerate(problem.links):
        for side, name in (("from", link.source), ("to", link.target)):
            if name not in known:
                _known(name, sorted(known), f"$.links[{i}].{side}", "device, tier or outside stage")


def _check_profiles(problem: Problem) -> None:
    stages = {s.name: s for s in problem.stages}
    devices = {d.name: d for d in problem.devices}
    seen: set[tuple[object, ...]] = set()
    for i, profile in enumerate(problem.profiles):
        at = f"$.profiles[{i}]"
        if profile.stage not in stages or stages[profile.stage].external:
            _wrong(f"{at}.stage", f"no stage `{profile.stage}` is placed on devices")
        if profile.device not in devices:
            _wrong(f"{at}.device", f"there is no device `{profile.device}`")
        _check_variant(stages[profile.stage], profile.variant, f"{at}.variant")
        key = (profile.stage, profile.variant, profile.device)
        if devices[profile.device].serverless is not None:
            key = (*key, profile.memory_mb)
            if profile.memory_mb <= 0:
                _wrong(f"{at}.memory_mb", "the memory size decides a function's price and speed")
        if key in seen:
            _wrong(at, "the stage, variant and device have a profile already")
        seen.add(key)
        for j, batch in enumerate(profile.batches):
            if batch.mean < SHORTEST_S:
                _wrong(f"{at}.batches[{j}].mean", f"{batch.mean} s is shorter than {SHORTEST_S} s")


def _check_variant(stage: ProblemStage, variant: str | None, path: str) -> None:
    if stage.variants:
        _known(variant or "", stage.variants, path, f"variant of `{stage.name}`")
    elif variant is not None:
        _wrong(path, f"`{stage.name}` has no variants")


def _check_accuracy(problem: Problem) -> None:
    if problem.accuracy is None:
        if problem.asks.accuracy_at_least is not None:
            _wrong("$.asks.accuracy_at_least", "an accuracy SLO is set, but no accuracy is known")
        return
    for path, stage, variant in _named_variants(problem):
        stages = {s.name: s for s in problem.stages}
        _known(stage, stages, path, "stage")
        _check_variant(stages[stage], variant, path)
    seen: set[tuple[tuple[str, str], ...]] = set()
    for i, row in enumerate(problem.accuracy.table):
        key = tuple(sorted(row.variants.items()))
        if key in seen:
            _wrong(f"$.accuracy.table[{i}]", "this combination is there twice")
        if {s for s, _ in key} != set(problem.accuracy.table[0].variants):
            _wrong(f"$.accuracy.table[{i}]", "it names other stages than the first row")
        seen.add(key)
    _check_operators(problem.accuracy.operators)


def _named_variants(problem: Problem) -> Iterator[tuple[str, str, str]]:
    if problem.accuracy is None:
        return
    for i, row in enumerate(problem.accuracy.table):
        for stage, variant in row.variants.items():
            yield f"$.accuracy.table[{i}]", stage, variant
    for i, operator in enumerate(problem.accuracy.operators):
        for variant in operator.samples:
            yield f"$.accuracy.operators[{i}].samples", operator.stage, variant


def _check_operators(operators: Iterable[OperatorAccuracy]) -> None:
    known: set[str] = set()
    for i, operator in enumerate(operators):
        at = f"$.accuracy.operators[{i}]"
        for name in operator.inputs:
            if name not in known:
                _wrong(f"{at}.inputs", f"`{name}` is not an operator listed before")
        if operator.stage in known:
            _wrong(at, f"`{operator.stage}` is there twice")
        known.add(operator.stage)
        for variant, samples in operator.samples.items():
            if any(len(s.inputs) != len(operator.inputs) for s in samples):
                _wrong(f"{at}.samples.{variant}", "a sample has not one value per input")
