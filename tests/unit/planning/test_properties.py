"""Whatever the problem: plans keep every rule, are optimal on small cases, and answer asks monotonically."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from coordinator.planning import Options, PlanObjective, Strategy, conflict, exhaustive, slo, solve
from coordinator.planning.verify import violations
from tiermesh.documents import problem as doc
from tiermesh.documents.problem import Problem
from tiermesh.documents.reading import decode_json
from tiermesh.errors import Infeasible, LimitExceeded

CASES = Path(__file__).with_name("cases")
"""Problems that went wrong once."""

SETTINGS = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
        HealthCheck.data_too_large,
    ],
)
SHAPES = {
    "chain": [("a", "b"), ("b", "c")],
    "join": [("a", "b"), ("s2", "c"), ("b", "d"), ("c", "d")],
    "diamond": [("a", "b"), ("b", "c"), ("b", "d"), ("c", "e"), ("d", "e")],
    "two-diamonds": [
        ("a", "b"),
        ("b", "c"),
        ("b", "d"),
        ("c", "e"),
        ("d", "e"),
        ("b", "e"),
        ("e", "f"),
    ],
}
seconds = st.sampled_from([0.005, 0.01, 0.02, 0.05, 0.11])
price = st.sampled_from([0.1, 0.25, 0.5, 1.0, 2.3])


@st.composite
def problems(draw, shapes=tuple(SHAPES), most_devices=4, counts=False):
    edges = SHAPES[draw(st.sampled_from(shapes))]
    names = list(dict.fromkeys(n for edge in edges for n in edge))
    readers = {v for _, v in edges}
    external = draw(st.booleans())
    ladders = {n: draw(st.integers(1, 2)) for n in names if n in readers}
    stages = [draw(_stage(n, ladders, edges, external)) for n in names]
    devices = [draw(_device(i, counts)) for i in range(draw(st.integers(1, most_devices)))]
    decided = [n for n in names if ladders.get(n, 0) > 1 and draw(st.integers(0, 3))]
    combos = [
        dict(zip(decided, c, strict=True)) for c in itertools.product("xy", repeat=len(decided))
    ]
    table = [
        doc.Combination(variants=c, accuracy=draw(st.sampled_from([50.0, 55.0, 57.5, 60.0])))
        for c in combos
    ]
    ask = draw(st.sampled_from([None, 50.0, 56.0, 58.0])) if decided else None
    return doc.Problem(
        name="p",
        tiers=["edge", "hub"],
        devices=devices,
        links=draw(_links([d.name for d in devices])),
        default_link=draw(st.sampled_from([doc.DefaultLink(), doc.DefaultLink(price_per_gib=0.5)])),
        upward_only=draw(st.booleans()),
        stages=stages,
        edges=[draw(_edge(u, v, ladders)) for u, v in edges],
        profiles=[p for s in stages for d in devices for p in draw(_profiles(s, d))],
        accuracy=doc.Accuracy(table=table) if decided else None,
        asks=doc.Asks(accuracy_at_least=ask, every_request=draw(st.booleans())),
    )


@st.composite
def _stage(draw, name, ladders, edges, external):
    if name not in ladders:
        rate = draw(st.sampled_from([1.0, 6.0, 20.0]))
        return doc.ProblemStage(name=name, kind="source", rate_rps=rate, external=external)
    inputs = sum(v == name for _, v in edges)
    kind = draw(st.sampled_from(["join", "union"])) if inputs > 1 else "model"
    return doc.ProblemStage(
        name=name,
        kind=kind,
        variants=["x", "y"][: ladders[name]],
        stateful=draw(st.integers(0, 5)) == 0,
        tiers=draw(st.sampled_from([[], [], [], ["hub"]])),
    )


@st.composite
def _device(draw, i, counts):
    radio = draw(st.sampled_from([None, None, None, 4.0]))
    return doc.ProblemDevice(
        name=f"d{i}",
        tier=draw(st.sampled_from(["edge", "hub"])),
        price_per_hour=draw(price),
        memory_mb=draw(st.sampled_from([None, None, 100.0, 250.0])),
        usable_share=draw(st.sampled_from([1.0, 0.7])),
        uplink_mbps=radio,
        downlink_mbps=radio and draw(st.sampled_from([None, 4.0])),
        count=draw(st.integers(1, 4)) if counts else 1,
    )


@st.composite
def _links(draw, devices):
    found = []
    for a, b in draw(
        st.lists(
            st.tuples(st.sampled_from([*devices, "edge"]), st.sampled_from([*devices, "hub"])),
            max_size=3,
            unique=True,
        )
    ):
        found.append(
            doc.ProblemLink(
                source=a,
                target=b,
                price_per_gib=draw(st.sampled_from([0.0, 0.5, 5.0])),
                capacity_mbps=draw(st.sampled_from([None, 1.0, 8.0])),
                allowed=draw(st.integers(0, 4)) > 0,
            )
        )
    return found


@st.composite
def _edge(draw, u, v, ladders):
    by_variant = {"x": draw(st.sampled_from([1e3, 2e5]))} if ladders.get(u, 0) > 1 else {}
    ratio = {"y": 0.5} if ladders.get(u, 0) > 1 and draw(st.integers(0, 3)) == 0 else {}
    return doc.ProblemEdge(
        source=u,
        target=v,
        ratio=draw(st.sampled_from([1.0, 1.0, 0.5, 2.0])),
        bytes_per_item=draw(st.sampled_from([0.0, 1e4, 1e5])),
        bytes_by_variant=by_variant if draw(st.booleans()) else {},
        ratio_by_variant=ratio,
    )


@st.composite
def _profiles(draw, stage, device):
    if stage.kind == "source":
        return []
    return [
        doc.ProblemProfile(
            stage=stage.name,
            variant=variant,
            device=device.name,
            batches=[doc.BatchTime(batch_size=1, mean=draw(seconds))],
            memory_mb=draw(st.sampled_from([0.0, 40.0, 90.0])),
        )
        for variant in stage.variants
        if draw(st.integers(0, 5)) or stage.name != "b"
    ]


@pytest.fixture(autouse=True, scope="module")
def no_reasons():
    """Why a problem has no plan, and how a plan plays, are other tests' subjects, and take time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slo, "SIMULATED", 0)
        patch.setattr(conflict, "explain", lambda *_: Infeasible("no plan"))
        yield


def plan_of(problem, options=None):
    """The plan, or None where there is none; either way no rule is broken."""
    try:
        plan = solve(problem, options)
    except Infeasible:
        return None
    assert violations(problem, plan, options) == []
    return plan


RULES = [
    Options(),
    Options(single_variant=True),
    Options(exclusive=True),
    Options(exclusive=True, single_variant=True),
]


@SETTINGS
@given(problems(), st.sampled_from(RULES), st.sampled_from(list(PlanObjective)))
def test_a_plan_keeps_every_rule(problem, rules, objective):
    plan_of(problem, replace(rules, objective=objective))


@pytest.mark.parametrize(
    "case", sorted(CASES.glob("radios_of_a_class_*.json")), ids=lambda p: p.stem
)
@pytest.mark.parametrize("rules", RULES)
def test_a_plan_for_devices_with_radios_keeps_every_rule_again(case, rules):
    plan_of(decode_json(case.read_bytes(), Problem, case.name), rules)


@SETTINGS
@given(problems(counts=True, most_devices=3), st.sampled_from(RULES))
def test_a_plan_for_classes_keeps_every_rule(problem, rules):
    plan_of(problem, replace(rules, time_limit_s=1.0))


@SETTINGS
@given(problems(most_devices=3), st.sampled_from(RULES))
def test_exact_is_exhaustive_and_never_above_greedy(problem, rules):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exhaustive, "CASES", 100)
        try:
            oracle = plan_of(problem, replace(rules, strategy=Strategy.EXHAUSTIVE))
        except LimitExceeded:
            assume(False)
    exact = plan_of(problem, rules)
    greedy = plan_of(problem, replace(rules, strategy=Strategy.GREEDY))

    assert (exact is None) == (oracle is None)
    if exact is not None and oracle is not None:
        assert exact.solver.objective == pytest.approx(oracle.solver.objective, rel=1e-5, abs=1e-6)
    if greedy is not None:
        assert exact is not None
        assert exact.solver.objective <= greedy.solver.objective + 1e-6


@SETTINGS
@given(problems(), st.integers(0, 3))
def test_a_lower_target_never_costs_more(problem, step):
    assume(problem.asks.accuracy_at_least is not None)
    asks = problem.asks
    lower = msgspec.structs.replace(asks, accuracy_at_least=asks.accuracy_at_least - step)
    high, low = plan_of(problem), plan_of(msgspec.structs.replace(problem, asks=lower))

    if high is not None:
        assert low is not None
        assert low.solver.objective <= high.solver.objective + 1e-5


@pytest.mark.parametrize("case", sorted(CASES.glob("one_more_device_*.json")), ids=lambda p: p.stem)
def test_one_more_device_did_not_cost_more_again(case):
    check_one_more_device(decode_json(case.read_bytes(), Problem, case.name))


@SETTINGS
@given(problems(most_devices=3))
def test_one_more_device_never_costs_more(problem):
    check_one_more_device(problem)


def check_one_more_device(problem):
    extra = msgspec.structs.replace(problem.devices[0], name="extra")
    profiles = [
        msgspec.structs.replace(p, device="extra")
        for p in problem.profiles
        if p.device == problem.devices[0].name
    ]
    larger = msgspec.structs.replace(
        problem, devices=[*problem.devices, extra], profiles=[*problem.profiles, *profiles]
    )
    before, after = plan_of(problem), plan_of(larger)

    if before is not None:
        assert after is not None
        assert after.solver.objective <= before.solver.objective + 1e-5


@SETTINGS
@given(problems())
def test_same_problem_same_plan(problem):
    first, second = plan_of(problem), plan_of(problem)

    assert (first and first.digest) == (second and second.digest)
