"""What `agent status` and `agent doctor` print for people."""

from __future__ import annotations

import pytest

from agent.readable import readable


def test_nested_values_are_told_apart():
    sample = {
        "device": "cam-1",
        "worker": {"state": "serving", "memory_bytes": "262422528"},
        "replicas": [
            {"replica": "detect@cam-1/v3", "busy_seconds": 9.678527, "service": {"p50": 0.27226}},
            {"replica": "text@cam-1", "finished": True},
        ],
        "accelerators": [],
        "power": None,
    }
    assert readable(sample, 80) == [
        "device: cam-1",
        "worker: state serving, memory 262 MB",
        "replicas:",
        "  - replica: detect@cam-1/v3",
        "    busy_seconds: 9.679",
        "    service: p50 0.2723",
        "  - replica: text@cam-1",
        "    finished: yes",
        "accelerators: none",
        "power: none",
    ]


def test_a_long_list_is_wrapped_below_its_key():
    lines = readable({"modules": {f"module{n}": "1.0" for n in range(9)}}, 40)
    assert len(lines) > 2
    assert all(len(line) <= 40 for line in lines)
    assert all(line.startswith("  module") for line in lines[1:])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({}, ["a: none"]),
        ([{}], ["a:", "  - none"]),
        ([[1], [2, 3]], ["a:", "  - 1", "  - 2, 3"]),
        ({"b": {}}, ["a:", "  b: none"]),
        (False, ["a: no"]),
        (1_700_000_000.5, ["a: 1700000000"]),
        ("", ["a:"]),
    ],
)
def test_odd_values_are_shown(value, shown):
    assert readable({"a": value}, 60) == shown
