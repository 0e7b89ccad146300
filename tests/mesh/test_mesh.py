"""Real processes in namespaces of their own, found by zeroconf across a bridge, through one fault at a time."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from pathlib import Path

import pytest

from tests.mesh.chaos import rampage, shown
from tests.mesh.lab import Lab
from tests.mesh.network import Network

pytestmark = pytest.mark.xdist_group("mesh")

ONE_LANE = [{stage: ["a", "b"] for stage in ("left", "right", "both")}]


def test_what_a_network_makes_goes_with_it(namespaces: None, tmp_path: Path) -> None:
    network = Network()
    space = network.space("a")
    with network:
        network.add("a")
        network.disk(tmp_path / "disk", 2**20)
        words = [*network.command("a"), "sh", "-c", "echo inside; exec sleep 600"]
        sleeping = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert sleeping.stdout is not None
        with sleeping.stdout as said:
            assert said.readline() == b"inside\n"
    assert sleeping.wait(10) == -signal.SIGKILL
    spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout  # noqa: S607
    assert space not in spaces
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def fill(hog: Path) -> None:
    """Write until the disk takes no more."""
    with contextlib.suppress(OSError), hog.open("wb", buffering=0) as file:
        while file.write(bytes(4_096)):
            pass


@pytest.mark.slow
async def test_a_device_whose_link_is_cut_is_gone_around_and_comes_back(pair: Lab) -> None:
    await pair.serve(ONE_LANE, count=300, rate=50)
    await pair.arrived(50, 30.0)
    pair.network.down("a")
    await pair.arrived(150, 20.0)
    pair.network.up("a")
    pair.network.slow("b", 0.3)
    await pair.arrived(220, 20.0)
    pair.network.fast("b")
    await pair.arrived(300, 30.0)
    assert pair.check_ledger(300) == {"result": 300}


@pytest.mark.slow
async def test_a_full_disk_at_the_sink_stops_the_flow_and_loses_nothing(pair: Lab) -> None:
    data = pair.folder / "src" / "data"
    pair.network.disk(data, 2**20)
    await pair.serve(ONE_LANE, count=300, rate=50)
    await pair.arrived(50, 30.0)
    hog = data / "hog"
    fill(hog)
    device = pair.devices["src"]
    assert device.signal(signal.SIGKILL, worker=True), "it starts again on the full disk"
    hog.unlink()
    await pair.arrived(300, 40.0)
    assert pair.check_ledger(300) == {"result": 300}


@pytest.mark.slow
async def test_faults_at_random_lose_nothing_and_deliver_nothing_twice(
    namespaces: None, tmp_path: Path
) -> None:
    said: list[str] = []
    report = await rampage(tmp_path / "lab", seed=7, requests=400, rate=40, say=said.append)
    assert report.outcomes == {"result": 400}, f"{shown(report)}\n{said}"
    assert report.recoveries
