"""Facts of a host: what psutil tells on three systems, what /proc tells without it, and that its absence is said."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import psutil
import pytest

from agent import host_facts
from agent.host_facts import HostInterface, HostMemory, HostTime, ProcFacts, PsutilFacts
from tests.psutil_answers import MACBOOK, WINDOWS_PC, facts


@pytest.fixture(params=["psutil", "proc"])
def here(request: pytest.FixtureRequest) -> host_facts.HostFacts:
    """This machine, by either way."""
    return PsutilFacts(psutil) if request.param == "psutil" else ProcFacts()


def test_this_machine_by_either_way(here: host_facts.HostFacts) -> None:
    assert here.logical_cores() == os.cpu_count()
    assert here.usable_cores() == len(os.sched_getaffinity(0))
    memory = here.memory()
    assert memory is not None
    assert 2**27 < memory.used_bytes < memory.total_bytes
    time = here.time()
    assert time is not None
    assert 0 < time.busy_s < time.total_s
    assert here.resident_bytes() > 10 * 2**20
    assert here.resident_bytes(4_190_000) == 0
    loopback = [one for one in here.interfaces() if "127.0.0.1/8" in one.addresses]
    assert [one.is_up for one in loopback] == [True]


def test_both_ways_say_the_same_of_this_machine() -> None:
    one, other = PsutilFacts(psutil), ProcFacts()
    memory, same = one.memory(), other.memory()
    assert memory is not None
    assert same is not None
    assert memory.total_bytes == same.total_bytes
    assert one.time().total_s == pytest.approx(other.time().total_s, rel=0.01)
    assert one.time().stolen_s == pytest.approx(other.time().stolen_s, rel=0.01, abs=0.1)
    addresses = {i.name: sorted(i.addresses) for i in other.interfaces()}
    assert {i.name: sorted(i.addresses) for i in one.interfaces()} == addresses


def test_a_macbook() -> None:
    found = facts(**MACBOOK)
    assert found.usable_cores() == 8
    assert found.clock() == (2424.0, 3504.0)
    assert found.memory() == HostMemory(16 * 2**30, 7 * 2**30)
    assert found.battery() == (61.0, False)
    assert found.interfaces() == [
        HostInterface("lo0", ["127.0.0.1/8", "::1/128"], True, None),
        HostInterface("en0", ["192.168.1.7/24", "fe80::1c:aa/64"], True, None),
        HostInterface("en5", ["169.254.3.4/16"], False, None),
    ]


def test_a_pc_with_windows() -> None:
    found = facts(**WINDOWS_PC)
    assert (found.physical_cores(), found.logical_cores()) == (8, 16)
    assert found.usable_cores() == 2
    assert found.time() == HostTime(busy_s=16.0, total_s=100.0, stolen_s=0.0)
    assert found.battery() is None
    assert found.interfaces()[1] == HostInterface(
        "Ethernet", ["10.0.0.9/24", "fe80::9/128"], True, 1000
    )


def test_what_a_system_has_not_is_unknown() -> None:
    found = facts(has_affinity=False, has_sensors=False, physical=None)
    assert (found.physical_cores(), found.clock(), found.battery()) == (None, None, None)
    assert facts(clocks=[(2596.0, 0.0)]).clock() is None  # a virtual machine does not tell


def test_time_of_guests_is_counted_once() -> None:
    times = {"user": 30.0, "nice": 0.0, "system": 10.0, "idle": 50.0, "iowait": 4.0, "softirq": 1.0}
    found = facts(times={**times, "steal": 5.0, "guest": 20.0, "guest_nice": 0.0})
    assert found.time() == HostTime(busy_s=41.0, total_s=100.0, stolen_s=5.0)


def test_without_psutil_and_without_proc_all_is_unknown(tmp_path: Path) -> None:
    found = ProcFacts(tmp_path)
    assert (found.memory(), found.time(), found.resident_bytes()) == (None, None, 0)
    assert (found.physical_cores(), found.clock(), found.battery()) == (None, None, None)


@pytest.mark.parametrize(("is_there", "says"), [(True, "from /proc"), (False, "not at all")])
def test_the_log_says_once_that_psutil_is_missing(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    is_there: bool,
    says: str,
) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setattr(host_facts, "PROC", tmp_path if is_there else tmp_path / "none")
    host_facts.host_facts.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert host_facts.host_facts() is host_facts.host_facts()
        assert isinstance(host_facts.host_facts(), ProcFacts)
        (line,) = caplog.messages
        assert "psutil is not installed" in line
        assert says in line
    finally:
        host_facts.host_facts.cache_clear()


def test_processor_time_of_a_measuring_process_needs_no_psutil_on_linux(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu  100 20 30 1000 5 4 6 40 0 0\n")
    assert host_facts.host_time(tmp_path) == HostTime(1.6, 12.05, 0.4)
    assert host_facts.host_time(tmp_path / "none") is None
