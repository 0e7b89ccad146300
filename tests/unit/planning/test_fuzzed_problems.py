"""No problem file gives a traceback: it is planned, infeasible, or wrong at a named place."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.planning import Options, conflict, solve
from coordinator.planning.verify import violations
from tiermesh.documents.problem import Problem
from tiermesh.documents.reading import decode_json
from tiermesh.errors import Infeasible, TiermeshError

VALID = {
    "schema": "tiermesh.problem/1",
    "name": "p",
    "tiers": ["edge", "hub"],
    "devices": [
        {"name": "a", "tier": "edge", "price_per_hour": 0.1, "memory_mb": 200, "count": 2},
        {"name": "b", "tier": "hub", "price_per_hour": 1.0, "uplink_mbps": 10},
    ],
    "links": [
        {"from": "edge", "to": "hub", "price_per_gib": 0.1, "capacity_mbps": 50, "rtt_ms": 2}
    ],
    "upward_only": True,
    "stages": [
        {"name": "src", "kind": "source", "rate_rps": 5, "external": True},
        {"name": "m", "kind": "model", "variants": ["x", "y"]},
        {"name": "out", "kind": "sink"},
    ],
    "edges": [
        {"from": "src", "to": "m", "bytes_per_item": 1000},
        {"from": "m", "to": "out", "ratio": 2, "bytes_by_variant": {"x": 10}},
    ],
    "profiles": [
        {
            "stage": "m",
            "variant": v,
            "device": d,
            "batches": [{"batch_size": 1, "mean": t}],
            "memory_mb": 50,
        }
        for v, d, t in (("x", "a", 0.1), ("y", "a", 0.2), ("x", "b", 0.01), ("y", "b", 0.02))
    ],
    "accuracy": {
        "table": [
            {"variants": {"m": "x"}, "accuracy": 0.8},
            {"variants": {"m": "y"}, "accuracy": 0.9},
        ]
    },
    "asks": {"accuracy_at_least": 0.85, "latency_s": {"p95": 2.0}},
    "terms": {"churn_per_start": 0.01},
    "running": [{"stage": "m", "variant": "x", "device": "a.1"}],
}
ODD = [None, True, 0, -1, 1e300, 1e-300, 1e12, "", "a", "nope", [], {}, [[]], 3.5, "p95", 10**30]


def places(value, path=()):
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    copy = value.copy()
    if new is DROP and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


DROP = object()
PLACES = list(places(VALID))[1:]


@pytest.fixture(autouse=True, scope="module")
def no_reasons():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conflict, "explain", lambda *_: Infeasible("no plan"))
        yield


def planned(data):
    with contextlib.suppress(TiermeshError):
        problem = decode_json(data, Problem, "the problem")
        assert violations(problem, solve(problem, Options(time_limit_s=3.0))) == []


def test_the_valid_one_is_planned():
    assert solve(decode_json(json.dumps(VALID), Problem, "p")).replicas


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_change_of_a_field_gives_a_traceback(data):
    document = VALID
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(PLACES))
        try:
            document = changed(document, path, data.draw(st.sampled_from([*ODD, DROP])))
        except (KeyError, IndexError, TypeError, AttributeError):
            return
    planned(json.dumps(document, default=lambda _: None))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_damage_of_the_bytes_gives_a_traceback(data):
    text = json.dumps(VALID).encode()
    at = data.draw(st.integers(0, len(text)))
    planned(
        text[:at] + data.draw(st.binary(max_size=3)) + text[at + data.draw(st.integers(0, 3)) :]
    )
