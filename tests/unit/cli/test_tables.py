"""What people see: it fits into a narrow terminal, and emulated devices say so."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from coordinator.cli.replicas import ledger_line, replica_table
from coordinator.cli.text import device_label
from coordinator.telemetry.attainment import (
    Attainment,
    AttainmentVerdict,
    ServedAccuracy,
    Spending,
    Word,
)
from coordinator.telemetry.status import DeviceStatus, Ledger, ReplicaStatus, WorkflowStatus
from tiermesh.documents.plan import Predicted


def printed(what: object, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(what)
    return out.getvalue()


@pytest.fixture
def status():
    def replica(device: str, **changed: object) -> ReplicaStatus:
        usual = {
            "variant": "v6s-static8",
            "predicted_items_per_second": 24.02,
            "predicted_busy": 0.5,
        }
        return ReplicaStatus(
            id=f"recognise@{device}/v6s", stage="recognise", device=device, **usual | changed
        )

    return WorkflowStatus(
        workflow="read",
        generation=3,
        run="r",
        plan="sha256:0",
        since=0.0,
        predicted=Predicted(throughput_rps=4.0),
        throughput_rps=None,
        latency_ms={},
        ledger=Ledger(accepted=3, results=2, in_flight=1),
        devices=[
            DeviceStatus(name="cam-1", tier="edge", state="ready", emulated_slowdown=6.0),
            DeviceStatus(name="server", tier="hub", state="ready"),
        ],
        replicas=[
            replica(
                "cam-1", items_per_second=19.5, busy=0.999, waiting=32, device_time_p95_ms=1_234.5
            ),
            replica("server"),
        ],
        attainment=Attainment(
            verdict=AttainmentVerdict(Word.NO_DATA, "no request has ended yet"),
            objectives=[],
            accuracy=ServedAccuracy(),
            cost=Spending(per_hour=0.5),
        ),
    )


def test_replicas_fit_into_80_columns_and_say_what_is_emulated(status):
    lines = printed(replica_table(status)).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "…" not in "".join(lines)
    assert lines[1].split() == [
        *("recognise", "v6s-static8", "cam-1", "(emulated", "6x)"),
        *("19.50/24.02", "100/50%", "32", "1234"),
    ]
    assert "emulated" not in lines[2]
    assert "-/24.02" in lines[2]


def test_errors_have_a_column_only_where_there_are_some(status):
    assert "errors" not in printed(replica_table(status))
    failing = [ReplicaStatus(**{**_fields(r), "errors": 7}) for r in status.replicas[:1]]
    status = WorkflowStatus(**{**_fields(status), "replicas": failing})
    assert printed(replica_table(status), 100).split("\n")[1].split()[-1] == "7"


def _fields(struct: object) -> dict[str, object]:
    return {name: getattr(struct, name) for name in type(struct).__struct_fields__}


def test_a_ledger_adds_up_in_words(status):
    assert ledger_line(status.ledger).startswith("accepted 3 = results 2 + errors 0 + in flight 1;")


@pytest.mark.parametrize(
    ("name", "slowdown", "label"),
    [
        ("hub", None, "hub"),
        ("hub", 1.0, "hub"),
        ("cam", 2.5, "cam (emulated 2.5x)"),
        ("[red]", None, "[red]"),
    ],
)
def test_a_device_label(name, slowdown, label):
    assert printed(device_label(name, slowdown)).strip() == label
