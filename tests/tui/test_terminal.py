"""The real app on the real demo mesh, in a real terminal, driven by tmux."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import needs_proc
from tests.fetched import fetched_ladders

ROOT = Path(__file__).parents[2]
TMUX = shutil.which("tmux") or ""
SLEEP = shutil.which("sleep") or ""
ENDED = "ended with status"
START_S = 60.0
SERVE_S = 420.0
ANSWER_S = 60.0
"""Until a key is answered; a machine that does much else takes its time."""

pytestmark = [
    needs_proc,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("demo"),
    pytest.mark.skipif(not TMUX, reason="tmux is not installed"),
]


class Tmux:
    """One terminal of a tmux server of its own."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def __call__(self, *words: str) -> str:
        return subprocess.run(
            [TMUX, "-S", str(self._socket), *words], capture_output=True, text=True, check=True
        ).stdout

    def start(self, command: list[str], **environment: str) -> None:
        """Run a command, then show how it ended: tmux itself misses the end of a pane now and then."""
        options = [word for k, v in environment.items() for word in ("-e", f"{k}={v}")]
        # LINES and COLUMNS of whoever runs the tests would be taken for the size of the pane.
        shown = (
            f"unset LINES COLUMNS; {shlex.join(command)}; echo {ENDED} $?; exec {SLEEP} {SERVE_S:g}"
        )
        self("new-session", "-d", "-x", "120", "-y", "60", *options, shown)

    @property
    def screen(self) -> str:
        return self("capture-pane", "-p")

    def until(self, text: str, seconds: float) -> str:
        """The screen once `text` is on it. A screen may be half painted: wait for what is asserted."""
        limit = time.monotonic() + seconds
        while text not in (screen := self.screen):
            assert ENDED not in screen, f"it ended before {text!r} came:\n{screen}"
            assert time.monotonic() < limit, f"{text!r} did not come:\n{screen}"
            subprocess.run([SLEEP, "0.2"], check=True)
        return screen

    def press(self, *keys: str) -> None:
        self("send-keys", *keys)


@pytest.fixture
def terminal(tmp_path):
    tmux = Tmux(tmp_path / "tmux")
    yield tmux
    subprocess.run([TMUX, "-S", str(tmp_path / "tmux"), "kill-server"], check=False)


def test_the_demo_is_opened_watched_planned_and_left(terminal):
    home = fetched_ladders().cache.home
    state = home / "tests" / "demo"
    words = ["--demo", "--state", str(state), "--variants", str(ROOT / "variants")]
    terminal.start(
        [sys.executable, "-m", "coordinator.cli", *words],
        TIERMESH_HOME=str(home),
        PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "proto")]),
    )
    terminal.until("2 Placement", START_S)
    terminal.until("● 4/4 devices", START_S)
    terminal.until("/s ✓", SERVE_S)
    terminal.until("detect", ANSWER_S)
    terminal.until("recognise", ANSWER_S)
    terminal.press("1")
    terminal.until("datacenter · 1/1 ready", ANSWER_S)
    terminal.press("3", "p")
    terminal.until("✓ optimal", ANSWER_S)
    terminal.press("6")
    terminal.until("rollout-committed", ANSWER_S)
    terminal.press("q")
    terminal.until(f"{ENDED} 0", ANSWER_S)
