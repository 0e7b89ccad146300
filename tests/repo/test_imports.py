"""What is imported where: light commands start without heavy libraries, and the agent never imports them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AFTER_IMPORTING = "import {module}, json, sys; print(json.dumps(sorted(sys.modules)))"
AFTER_COMMAND = """
import json, sys
from coordinator.cli import main
sys.stdout = sys.stderr
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)), file=sys.__stdout__)
"""


def imported(code: str, *arguments: object, home: Path = ROOT) -> set[str]:
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto")]),
            "TIERMESH_HOME": str(home),
        },
    )
    return {module.partition(".")[0] for module in json.loads(ended.stdout)}


@pytest.mark.parametrize(
    "command",
    ["--help", "plan --help", "devices --no-browse", "devices --offline", "status", "events"],
)
def test_light_commands_need_no_solver(command: str, tmp_path: Path) -> None:
    """With a state folder that a first `devices` made, so that each command does its work."""
    imported(AFTER_COMMAND, "devices", "--no-browse", home=tmp_path)
    modules = imported(AFTER_COMMAND, *command.split(), home=tmp_path)
    assert "coordinator" in modules
    assert not modules & {"numpy", "pulp", "highspy", "scipy", "textual"}


def test_what_the_tui_shows_is_computed_without_it() -> None:
    """Neither Textual nor gRPC: the model is pure, and the first picture waits for neither a mesh nor a solver."""
    for module in ("placement", "drawing", "gauges", "plan", "profiles", "rollout", "journal"):
        modules = imported(AFTER_IMPORTING.format(module=f"coordinator.tui.model.{module}"))
        assert not modules & {"textual", "grpc", "numpy", "pulp"}, module


def test_the_app_is_imported_without_a_mesh_or_a_solver() -> None:
    modules = imported(AFTER_IMPORTING.format(module="coordinator.tui.app"))
    assert "textual" in modules
    assert not modules & {"grpc", "numpy", "pulp", "zeroconf"}


def test_planning_needs_them(tmp_path: Path) -> None:
    """Else the test above shows nothing."""
    assert {"numpy", "pulp"} <= imported(
        AFTER_IMPORTING.format(module="coordinator.planning.planner")
    )


@pytest.mark.parametrize(
    "module", ["agent.cli", "agent.runner", "agent.serving.worker", "agent.profiling.benchmark"]
)
def test_the_agent_stays_light(module: str) -> None:
    modules = imported(AFTER_IMPORTING.format(module=module))
    assert not modules & {"numpy", "onnxruntime", "rich", "psutil", "yaml", "cv2"}
