"""Clocks that jump under running processes: a library between them and the kernel shifts CLOCK_REALTIME on command."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path

import pytest

from tests.mesh.lab import Lab

pytestmark = pytest.mark.xdist_group("mesh")

ONE_LANE = [{stage: ["a", "b"] for stage in ("left", "right", "both")}]


class WallClock:
    """The wall clock of a device's processes; their monotonic clock is left as it is."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.jump(0)
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, seconds: int) -> None:
        """Set it so many seconds off, at once."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{seconds:+d}\n")
        draft.replace(self._file)


@pytest.fixture
def wall_clock(tmp_path: Path) -> WallClock:
    found = importlib.util.find_spec("libfaketime")
    if found is None or found.origin is None:
        pytest.skip("the package libfaketime is not installed")
    libraries = list(Path(found.origin).parent.rglob("libfaketime.so.1"))
    if not libraries or os.uname().sysname != "Linux":
        pytest.skip("libfaketime has no library for this machine")
    return WallClock(libraries[0], tmp_path / "faketime")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [3_600, -3_600], ids=["an hour ahead", "an hour back"])
async def test_a_clock_that_jumps_ends_no_request_and_loses_none(
    pair: Lab, wall_clock: WallClock, seconds: int
) -> None:
    """The source's device, whose clock is that of all deadlines, and a carrier's; the source's worker starts again."""
    source = pair.devices["src"]
    source.environment |= wall_clock.environment
    pair.devices["a"].environment |= wall_clock.environment
    await pair.serve(ONE_LANE, count=200, rate=40)
    await pair.arrived(30, 30.0)
    wall_clock.jump(seconds)
    await pair.arrived(80, 20.0)
    assert source.signal(signal.SIGKILL, worker=True)
    await pair.arrived(200, 30.0)
    assert pair.check_ledger(200) == {"result": 200}
