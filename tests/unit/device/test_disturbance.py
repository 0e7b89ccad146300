"""What others took of a machine, from files as its kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.profiling.disturbance import CpuTimes, Disturbance
from agent.run_delay import run_delay_s


def reading(**changed: float | None) -> CpuTimes:
    usual = dict.fromkeys(CpuTimes.__dataclass_fields__, 0.0)
    return CpuTimes(**{**usual, **changed})


def test_waiting_for_a_processor_is_a_disturbance() -> None:
    after = reading(cpu_s=3.0, waited_s=1.0, busy_s=7.0, own_s=3.0, wall_s=4.0)
    found = Disturbance.between(reading(), after)
    assert found.share == 0.25
    assert found.other_cores == 1.0


def test_what_the_hypervisor_took_counts_where_it_is_more() -> None:
    after = reading(cpu_s=3.0, waited_s=0.0, busy_s=3.0, stolen_s=1.0, own_s=3.0, wall_s=4.0)
    assert Disturbance.between(reading(), after).share == 0.25


def test_without_counted_waits_pressure_tells() -> None:
    before = reading(waited_s=None)
    after = reading(cpu_s=2.0, waited_s=None, pressure_s=2.0, wall_s=4.0, busy_s=2.0)
    assert Disturbance.between(before, after).share == pytest.approx(1 / 3)


def test_a_kernel_that_tells_nothing() -> None:
    silent = reading(waited_s=None, busy_s=None, stolen_s=None, pressure_s=None)
    found = Disturbance.between(silent, silent)
    assert (found.share, found.other_cores) == (None, None)


def planted(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_kernels_files_are_read(tmp_path: Path) -> None:
    proc = planted(
        tmp_path,
        {
            "stat": "cpu  100 20 30 1000 5 4 6 40 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n",
            "pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\n",
            "thread-self/schedstat": "5000000000 1500000000 7\n",
        },
    )
    found = CpuTimes.take(proc)
    assert found.waited_s == 1.5
    assert found.pressure_s == 2.5
    # Ticks of 10 ms: busy without waiting for disks, and what was stolen.
    assert (found.busy_s, found.stolen_s) == (pytest.approx(1.6), pytest.approx(0.4))


@pytest.mark.parametrize("text", ["", "0 0", "a b c", "1 x 3"])
def test_files_that_say_nothing(tmp_path: Path, text: str) -> None:
    proc = planted(tmp_path, {"stat": text, "pressure/cpu": text, "thread-self/schedstat": text})
    found = CpuTimes.take(proc)
    assert (found.waited_s, found.busy_s, found.pressure_s) == (None, None, None)
    assert run_delay_s(tmp_path / "nowhere") is None
