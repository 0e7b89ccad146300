"""An agent starts, describes itself and stops without /proc or POSIX, as far as Linux can imitate that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.psutil_answers import MACBOOK, WINDOWS_PC

ROOT = Path(__file__).parents[3]


def ran(system: str, folder: Path) -> tuple[dict[str, Any], str]:
    """What the agent said, and its log."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.integration.agent.other_system", system, str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto")])},
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout), ended.stderr


@pytest.mark.parametrize(("system", "known"), [("MAC", MACBOOK), ("WINDOWS", WINDOWS_PC)])
def test_with_psutil(tmp_path: Path, system: str, known: dict[str, Any]) -> None:
    said, log = ran(system, tmp_path / "state")
    found = said["fingerprint"]
    assert said["name"] == "other"
    assert said["stopped"]
    assert (found["cpu"]["cores_logical"], found["memory_bytes"]) == (
        known["logical"],
        known["memory"][0],
    )
    assert said["memory_used_bytes"] == known["memory"][0] - known["memory"][1]
    assert [one["loopback"] for one in found["interfaces"]] == [False, True]
    assert "cannot tell" not in log
    assert ("no file locks" in log) == (system == "WINDOWS")


def test_without_psutil_and_proc(tmp_path: Path) -> None:
    said, log = ran("BARE", tmp_path / "state")
    found = said["fingerprint"]
    assert found["cpu"]["cores_logical"] == found["threads"] == os.cpu_count()
    assert (found["memory_bytes"], said["memory_used_bytes"]) == (0, 0)
    assert any(interface["loopback"] for interface in found["interfaces"])
    assert "psutil is not installed: host facts are read not at all" in log
