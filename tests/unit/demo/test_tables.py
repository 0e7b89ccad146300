"""What the demo shows: each table renders, whatever the names in it are."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from coordinator.cli.demo import tables
from coordinator.cli.demo.agents import BUSIEST, DEVICES
from coordinator.cli.demo.serving import victim_of
from tiermesh.documents.plan import Cost, Lane, MadeFor, Plan, Predicted, Replica, Solver
from tiermesh.errors import TiermeshError

HOSTILE = "[/red][bold]x"
EMULATED = {"cam-1": 6.0, "server": 1.0}


def shown(table: RenderableType) -> str:
    console = Console(width=160, file=io.StringIO())
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def replica(stage: str, device: str, busy: float, variant: str | None = None) -> Replica:
    return Replica(
        id=f"{stage}@{device}",
        stage=stage,
        variant=variant,
        device=device,
        items_per_second=4.0,
        utilization=busy,
    )


@pytest.fixture
def plan() -> Plan:
    replicas = [
        replica("photos", "cam-1", 0.0),
        replica("detect", "hub-1", 0.3, "v3"),
        replica("read", "cam-1", 0.2, HOSTILE),
        replica("sort", "cam-1", 0.2, "v1"),
    ]
    return Plan(
        workflow="read-signs",
        made_for=MadeFor(problem="sha256:" + "0" * 64),
        solver=Solver(
            name="highs",
            status="ok",
            termination="optimal",
            objective=0.03,
            bound=None,
            gap=None,
            seconds=1.0,
        ),
        cost=Cost(compute_per_hour=0.03, network_per_hour=0.0, total_per_hour=0.03),
        predicted=Predicted(throughput_rps=4.0, latency_ms={"p50": 400.0, "p99": 900.0}),
        replicas=replicas,
        lanes=[Lane(share=1.0, path={r.stage: r.id for r in replicas})],
    )


def test_the_fleet_says_what_is_emulated() -> None:
    lines = shown(tables.fleet_table(DEVICES)).splitlines()
    assert [line.split()[0] for line in lines[2:]] == [d.name for d in DEVICES]
    assert "6 x slower" in lines[2]
    assert lines[-1].split()[-1] == "no"


def test_a_plan_shows_its_replicas_and_marks_emulated_devices(plan: Plan) -> None:
    text = shown(tables.plan_table(plan, EMULATED))
    assert "plan: 0.0300 USD/h, gap 0.00%" in text
    assert "cam-1 (emulated 6x)" in text
    assert HOSTILE in text


def test_predicted_stands_beside_measured_where_both_are_known(plan: Plan) -> None:
    text = shown(tables.comparison_table(plan, 3.0, {"p50": 500.0, "p95": 800.0}, 0.03))
    rows = {line.split("  ")[0].strip(): line.split() for line in text.splitlines()[2:]}
    assert rows["throughput (requests/s)"][-3:] == ["4", "3", "-25%"]
    assert rows["latency p50 (ms)"][-3:] == ["400", "500", "+25%"]
    assert not any("p95" in name for name in rows), "the plan predicts no p95"
    assert rows["cost of devices in use (USD/h)"][-1] == "+0%"


def test_the_worker_that_is_killed_is_one_that_the_plan_uses(plan: Plan) -> None:
    assert victim_of(plan, None) is None
    assert victim_of(plan, "hub-1") == "hub-1"
    assert victim_of(plan, BUSIEST) == "cam-1"
    with pytest.raises(TiermeshError, match="server has no worker") as refused:
        victim_of(plan, "server")
    assert "cam-1, hub-1" in refused.value.fix
