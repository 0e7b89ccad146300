"""How processes log: levels, formats, and what a child process inherits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import logging, sys
from tiermesh import logs
logs.configure({level!r}, {form!r}, default="warning", process={process!r})
log = logging.getLogger("some.module")
log.debug("one"); log.info("two %d", 2, extra={{"event": "plan-made"}}); log.warning("three\\nlines")
"""


def lines(
    level: str | None = None, form: str | None = None, process: str = "", **env: str
) -> list[str]:
    script = SCRIPT.format(level=level, form=form, process=process)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), **env},
    )
    assert not done.stdout
    return done.stderr.splitlines()


def test_the_default_level_holds_where_nothing_is_said():
    first, second = lines()
    assert "WARNING some.module: three" in first
    assert second == "lines"


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("error", 0)])
def test_a_level_by_argument_or_by_environment(level: str, count: int):
    assert len(lines(level)) == count
    assert len(lines(TIERMESH_LOG_LEVEL=level.upper())) == count


def test_a_level_that_does_not_exist_in_the_environment_is_the_default():
    assert len(lines(TIERMESH_LOG_LEVEL="chatty", TIERMESH_LOG_FORMAT="xml")) == 2


def test_json_is_one_object_a_line_whatever_the_message_holds():
    first, second = (json.loads(line) for line in lines("info", "json", "worker"))
    assert first["message"] == "two 2"
    assert first["event"] == "plan-made"
    assert first["process"] == "worker"
    assert first["level"] == "INFO"
    assert first["logger"] == "some.module"
    assert second["message"] == "three\nlines"
    assert second["time"][:2] == "20"


def test_a_process_that_is_started_logs_the_same_way():
    inner = SCRIPT.format(level=None, form=None, process="worker")
    child = (
        "import subprocess, sys; from tiermesh import logs\n"
        "logs.configure('info', 'json', default='error')\n"
        f"subprocess.run([sys.executable, '-c', {inner!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", child],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == [
        "two 2",
        "three\nlines",
    ]


def test_a_file_takes_the_lines_of_a_process_that_draws_on_its_terminal(tmp_path: Path):
    script = (
        "import logging; from pathlib import Path; from tiermesh import logs\n"
        f"logs.configure('info', None, default='error', file=Path({str(tmp_path)!r}) / 'a' / 'tui.log')\n"
        "logging.getLogger('x').info('one')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert not done.stderr
    assert (tmp_path / "a" / "tui.log").read_text().endswith("INFO    x: one\n")


def test_the_default_of_a_process_is_not_that_of_those_it_starts():
    child = "import os; from tiermesh import logs; logs.configure(None, None, default='error'); print(os.environ)"
    done = subprocess.run(
        [sys.executable, "-c", child],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert "TIERMESH_LOG" not in done.stdout
