"""Wall clocks that are set under a mesh at work, and before its processes start again."""

from __future__ import annotations

import signal

import pytest

from tests.mesh.lab import Lab, Process
from tests.mesh.wallclock import unavailable

pytestmark = [
    pytest.mark.xdist_group("mesh"),
    pytest.mark.skipif(bool(unavailable()), reason=unavailable()),
]

ONE_LANE = [{stage: ["a", "b"] for stage in ("left", "right", "both")}]
HOUR_S = 3_600.0


def set_clock(process: Process, seconds: float) -> None:
    """Set a process's clock so many seconds off."""
    assert process.clock is not None
    process.clock.set(seconds)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S], ids=["an hour ahead", "an hour back"])
async def test_a_clock_that_is_set_ends_no_request_and_loses_none(
    pair: Lab, seconds: float
) -> None:
    """The clock of all deadlines, that of the source's device, then everybody's; each process starts again under it."""
    pair.give_clocks()
    source, carrier = pair.devices["src"], pair.devices["a"]
    # Always a day off: what passes between devices is no time of day.
    set_clock(carrier, 24 * HOUR_S)
    await pair.serve(ONE_LANE, count=400, rate=40)
    await pair.arrived(30, 30.0)
    set_clock(source, seconds)
    await pair.arrived(60, 20.0)
    assert source.signal(signal.SIGKILL, worker=True)
    await pair.arrived(140, 30.0)
    set_clock(source, -seconds)
    await source.kill()
    await source.start()
    await pair.arrived(220, 30.0)
    set_clock(carrier, -seconds)
    assert carrier.signal(signal.SIGKILL, worker=True)
    set_clock(pair.coordinator, seconds)
    await pair.arrived(300, 30.0)
    await pair.coordinator.kill()
    set_clock(pair.coordinator, -seconds)
    await pair.coordinator.start()
    await pair.arrived(400, 30.0)
    assert pair.check_ledger(400) == {"result": 400}, "no deadline has passed"
    assert pair.coordinator.runs
