"""Fingerprints of devices that are not here, from files as their kernels write them."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import pytest

from agent.host_facts import HostInterface, ProcFacts, PsutilFacts
from agent.profiling import fingerprint
from agent.profiling.fingerprint import (
    Roots,
    accelerators,
    cpu,
    disk,
    host,
    memory,
    modules,
    network,
    power,
    quota,
    throttling,
)
from agent.profiling.timing import sustained
from tests.psutil_answers import MACBOOK, WINDOWS_PC, answers, facts

ARM_CORE = """processor\t: {n}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: {part}
CPU revision\t: 1

"""
INTEL_CORE = """processor\t: {n}
vendor_id\t: GenuineIntel
model name\t: 12th Gen Intel(R) Core(TM) i7-1260P
cpu MHz\t\t: 400.000
flags\t\t: fpu sse4_2 avx f16c avx2 fma avx_vnni aes
"""


RASPBERRY_PI_5 = {
    "proc/cpuinfo": "".join(ARM_CORE.format(n=n, part="0xd0b") for n in range(4))
    + "Revision\t: d04170\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n",
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
    "proc/self/cgroup": "0::/user.slice\n",
    "proc/sys/kernel/osrelease": "6.6.31+rpt-rpi-2712\n",
    "proc/sys/kernel/random/boot_id": "11111111-2222-3333-4444-555555555555\n",
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "2400000\n",
    "sys/class/drm/card0/device/uevent": "DRIVER=vc4-drm\n",
    "sys/class/drm/card1/device/uevent": "DRIVER=v3d\nOF_NAME=v3d\n",
    "sys/class/drm/card0-HDMI-A-1/device/uevent": "DRIVER=v3d\n",
    "sys/bus/usb/devices/2-1/idVendor": "18d1\n",
    "sys/bus/usb/devices/2-1/idProduct": "9302\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48850\n",
    "sys/class/hwmon/hwmon1/name": "rp1_adc\n",
    "sys/class/hwmon/hwmon1/temp1_input": "47000\n",
    "sys/class/hwmon/hwmon2/name": "rpi_volt\n",
    "sys/class/net/wlan0/phy80211/name": "phy0\n",
}
JETSON_ORIN = {
    "proc/cpuinfo": "".join(ARM_CORE.format(n=n, part="0xd42") for n in range(2)),
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.0, GCID: 1, BOARD: generic\n",
    "etc/machine-id": "fedcba9876543210fedcba9876543210\n",
    "sys/class/power_supply/ucsi-source-psy/type": "USB\n",
    "sys/class/power_supply/ucsi-source-psy/online": "0\n",
}
LAPTOP = {
    "proc/cpuinfo": "\n".join(INTEL_CORE.format(n=n) for n in range(4)),
    "proc/self/cgroup": "0::/app.slice/agent.service\n",
    "sys/fs/cgroup/app.slice/agent.service/memory.max": "max\n",
    "sys/fs/cgroup/app.slice/memory.max": "2147483648\n",
    "sys/class/power_supply/AC/type": "Mains\n",
    "sys/class/power_supply/AC/online": "0\n",
    "sys/class/power_supply/BAT0/type": "Battery\n",
    "sys/class/power_supply/BAT0/status": "Discharging\n",
    "sys/class/power_supply/BAT0/capacity": "61\n",
    "sys/class/power_supply/hidpp_battery_0/type": "Battery\n",
    "sys/class/power_supply/hidpp_battery_0/scope": "Device\n",
    "sys/class/power_supply/hidpp_battery_0/status": "Discharging\n",
    "sys/class/power_supply/hidpp_battery_0/capacity": "5\n",
    "sys/class/drm/card0/device/uevent": "DRIVER=i915\n",
    "sys/class/drm/card0/device/vendor": "0x8086\n",
    "sys/class/drm/card0/device/device": "0x46a6\n",
    "sys/class/accel/accel0/device/uevent": "DRIVER=intel_vpu\n",
    "sys/class/apex/apex_0/temp": "40000\n",
}


FACTS: Final = facts(logical=4, physical=4, memory=(8255152 * 1024, 2**30))
"""What psutil tells of a Raspberry Pi 5."""


def planted(folder: Path, files: dict[str, str]) -> Roots:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return Roots(folder / "proc", folder / "sys", folder / "etc")


def test_a_raspberry_pi(tmp_path: Path) -> None:
    at = planted(tmp_path, RASPBERRY_PI_5)
    found = cpu.probe(at.proc, at.sys, FACTS)
    assert found.model == "Raspberry Pi 5 Model B Rev 1.0 (Cortex-A76)"
    assert (found.cores_physical, found.cores_logical, found.max_mhz) == (4, 4, 2400.0)
    assert found.features == ["asimd", "asimddp", "asimdhp", "fphp"]
    assert memory.total_bytes(at.proc, at.sys, FACTS) == 8255152 * 1024
    assert (
        host.operating_system(at.proc, at.etc)
        == f"Debian GNU/Linux 12 (bookworm), {platform.system()} 6.6.31+rpt-rpi-2712"
    )
    kinds = [(a.name, a.kind) for a in accelerators.probe(at.proc, at.sys, at.etc, lambda: "")]
    assert kinds == [("VideoCore GPU", "gpu"), ("Coral Edge TPU (USB)", "tpu")]
    assert power.supply(at.sys, FACTS) == "unknown"
    assert power.temperature_sensors(at.sys) == ["cpu-thermal", "rp1_adc"]


def test_its_interfaces(tmp_path: Path) -> None:
    at = planted(tmp_path, RASPBERRY_PI_5)
    known = [
        HostInterface("eth0", ["10.0.0.5/24", "10.0.0.9/24"], speed_mbps=1000),
        HostInterface("wlan0", ["10.0.1.5"]),
        HostInterface("eth1", ["10.2.2.2"], is_up=False),
        HostInterface("lo", ["127.0.0.1"]),
    ]
    eth, lo, wlan = network.probe(at.sys, known)
    assert (eth.name, eth.speed_mbps, eth.loopback, eth.wireless) == ("eth0", 1000, False, False)
    assert (eth.addresses, eth.networks) == (["10.0.0.5", "10.0.0.9"], ["10.0.0.0/24"])
    assert (lo.name, lo.loopback) == ("lo", True)
    assert (wlan.name, wlan.speed_mbps, wlan.wireless) == ("wlan0", None, True)


def test_a_jetson_has_one_gpu_even_if_nvidia_smi_lists_it(tmp_path: Path) -> None:
    at = planted(tmp_path, JETSON_ORIN)
    assert "Cortex-A78AE" in cpu.probe(at.proc, at.sys, FACTS).model
    smi = "Orin (nvgpu), [N/A], 540.4.0\n"
    (gpu,) = accelerators.probe(at.proc, at.sys, at.etc, lambda: smi)
    assert (gpu.name, gpu.memory_bytes, gpu.driver) == ("NVIDIA Tegra234", None, "R36 (release)")


def test_a_server_with_two_gpus(tmp_path: Path) -> None:
    at = planted(tmp_path, {})
    smi = "NVIDIA H100 80GB HBM3, 81559, 550.54\nNVIDIA A2, [N/A], 550.54\nno row\n"
    first, second = accelerators.probe(at.proc, at.sys, at.etc, lambda: smi)
    assert (first.name, first.memory_bytes) == ("NVIDIA H100 80GB HBM3", 81559 * 2**20)
    assert (second.name, second.memory_bytes, second.driver) == ("NVIDIA A2", None, "nvidia 550.54")
    driver = {"proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA T4\n"}
    (only,) = accelerators.probe(planted(tmp_path, driver).proc, at.sys, at.etc, lambda: "")
    assert only.name == "NVIDIA T4"


def test_a_laptop_on_battery_in_a_memory_cgroup(tmp_path: Path) -> None:
    at = planted(tmp_path, LAPTOP)
    laptop = facts(logical=4, physical=3, memory=(16078144 * 1024, 2**30))
    found = cpu.probe(at.proc, at.sys, laptop)
    assert found.model == "12th Gen Intel(R) Core(TM) i7-1260P"
    assert (found.cores_physical, found.cores_logical) == (3, 4)
    assert found.features == ["avx", "avx2", "avx_vnni", "f16c", "fma", "sse4_2"]
    assert memory.total_bytes(at.proc, at.sys, laptop) == 2 * 2**30
    names = [a.name for a in accelerators.probe(at.proc, at.sys, at.etc, lambda: "")]
    assert names == ["Intel GPU [8086:46a6]", "Intel NPU", "Coral Edge TPU (PCIe)"]
    assert power.supply(at.sys, FACTS) == "battery"
    planted(tmp_path, {"sys/class/power_supply/AC/online": "1\n"})
    assert power.supply(at.sys, FACTS) == "mains"


def test_an_old_memory_cgroup_counts_too(tmp_path: Path) -> None:
    at = planted(
        tmp_path,
        LAPTOP
        | {
            "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/docker/abc\n0::/\n",
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "536870912\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert memory.total_bytes(at.proc, at.sys, FACTS) == 512 * 2**20


def test_containers_on_one_machine_are_one_host(tmp_path: Path) -> None:
    at = planted(tmp_path / "a", RASPBERRY_PI_5)
    other = planted(tmp_path / "b", RASPBERRY_PI_5 | {"etc/machine-id": "f" * 32})
    jetson = planted(tmp_path / "c", JETSON_ORIN)
    assert host.host_id(at.proc, at.etc) == host.host_id(other.proc, other.etc)
    assert host.host_id(at.proc, at.etc) != host.host_id(jetson.proc, jetson.etc)


def test_modules_have_versions_and_private_ones_are_left_out() -> None:
    found = modules.probe({"numpy": ["numpy"], "_cffi": ["cffi"], "not-one": ["numpy"]})
    assert found["numpy"].count(".") == 2
    assert found["cv2"] == "unknown"
    assert {"_cffi", "not-one"}.isdisjoint(found)


def test_the_disk_of_a_folder_that_is_still_to_be_made(tmp_path: Path) -> None:
    assert disk.total_bytes(tmp_path / "not" / "yet") == disk.total_bytes(tmp_path) > 0


def test_this_device() -> None:
    found = fingerprint.take(threads=None, slowdown=None)
    assert found.threads == len(os.sched_getaffinity(0))
    assert found.memory_bytes > 2**27
    assert found.disk_bytes > 2**27
    assert any(interface.loopback for interface in found.interfaces)
    assert found.runtimes[0].name == "onnx"
    assert found.emulated is None


def test_an_emulated_device_is_another_class() -> None:
    real, slow = fingerprint.take(threads=1), fingerprint.take(threads=1, slowdown=4)
    assert slow.emulated is not None
    assert slow.emulated.slowdown == 4
    assert slow.device_class != real.device_class == fingerprint.take(threads=1).device_class


def test_a_probe_that_fails_does_not_fail_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    at = planted(tmp_path, {"proc/cpuinfo": "\0\ufffd: :\n"})
    broken = answers()
    broken.virtual_memory = lambda: int("lots")
    with caplog.at_level(logging.WARNING):
        found = fingerprint.take(roots=at, facts=PsutilFacts(broken))
    assert "cannot read the memory" in caplog.text
    assert (found.memory_bytes, found.cpu.model, found.accelerators) == (0, "unknown", [])
    assert found.disk_bytes > 0


@pytest.mark.parametrize(
    ("options", "power_now", "cores"), [(MACBOOK, "battery", 8), (WINDOWS_PC, "unknown", 8)]
)
def test_a_machine_without_proc_and_sys(
    tmp_path: Path, options: dict[str, Any], power_now: str, cores: int
) -> None:
    """What psutil tells is there; what only Linux tells is unknown, and nothing fails."""
    nowhere = Roots(*(tmp_path / name for name in ("proc", "sys", "etc")))
    found = fingerprint.take(roots=nowhere, facts=facts(**options))
    assert (found.cpu.cores_physical, found.power) == (cores, power_now)
    assert found.memory_bytes == options["memory"][0]
    assert found.cpu.max_mhz == options["clocks"][0][1]
    assert [one.loopback for one in found.interfaces] == [False, True]
    assert (found.cpu.features, found.cpu_quota_cores, found.temperature_sensors) == ([], None, [])
    assert found.host == fingerprint.take(roots=nowhere, facts=facts(**options)).host
    assert throttling.state(nowhere.sys, facts(**options))["limit_mhz"] == found.cpu.max_mhz


def test_a_processor_is_named_by_its_system_where_there_is_no_cpuinfo(tmp_path: Path) -> None:
    found = cpu.probe(tmp_path, tmp_path, facts(**MACBOOK), lambda: "Apple M2")
    assert found.model == "Apple M2"
    assert cpu.probe(tmp_path, tmp_path, FACTS, lambda: "").model == "unknown"


def test_a_board_without_psutil(tmp_path: Path) -> None:
    """32-bit Arm has no wheel of it: what /proc tells is enough to plan with."""
    files = RASPBERRY_PI_5 | {"proc/meminfo": "MemTotal: 948304 kB\nMemAvailable: 600000 kB\n"}
    at = planted(tmp_path, files)
    found = fingerprint.take(roots=at, facts=ProcFacts(at.proc))
    assert found.memory_bytes == 948304 * 1024
    assert found.cpu.cores_physical == found.cpu.cores_logical == os.cpu_count()
    assert found.cpu.max_mhz == 2400.0
    assert any(interface.loopback for interface in found.interfaces)


@pytest.mark.parametrize(
    ("battery", "supply", "told"),
    [
        (None, "unknown", None),
        ((61.0, False), "battery", (61.0, "discharging")),
        ((61.0, True), "mains", (61.0, "unspecified")),
        ((61.0, None), "unknown", (61.0, "unspecified")),
    ],
)
def test_a_battery_that_psutil_tells_of(
    tmp_path: Path, battery: Any, supply: str, told: Any
) -> None:
    found = facts(battery=battery)
    assert power.supply(tmp_path, found) == supply
    assert power.battery(tmp_path, found) == told


def test_how_full_the_batteries_are(tmp_path: Path) -> None:
    at = planted(tmp_path, RASPBERRY_PI_5)
    assert power.battery(at.sys, FACTS) is None
    planted(tmp_path, LAPTOP)
    assert power.battery(at.sys, FACTS) == (61, "discharging")
    second = "sys/class/power_supply/BAT1"
    planted(tmp_path, {f"{second}/type": "Battery\n", f"{second}/capacity": "101\n"})
    assert power.battery(at.sys, FACTS) == (80.5, "discharging")
    for status, state in (
        ("Charging", "charging"),
        ("Not charging", "resting"),
        ("?", "unspecified"),
    ):
        planted(tmp_path, {"sys/class/power_supply/BAT0/status": status})
        assert power.battery(at.sys, FACTS) == (80.5, state)


def test_the_tightest_quota_of_all_cgroups_above_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/pod/agent\n",
        "sys/fs/cgroup/cpu.max": "300000 100000\n",
        "sys/fs/cgroup/pod/cpu.max": "50000 100000\n",
        "sys/fs/cgroup/pod/agent/cpu.max": "max 100000\n",
    }
    roots = planted(tmp_path, files)
    assert quota.cores(roots.proc, roots.sys) == 0.5


@pytest.mark.parametrize("mounted", ["cpu", "cpu,cpuacct"])
def test_a_quota_of_the_first_cgroups(tmp_path: Path, mounted: str) -> None:
    """As Docker shows it in a container: the cgroup's path on the host is not there."""
    files = {
        "proc/self/cgroup": f"3:{mounted}:/docker/0123\n1:memory:/docker/0123\n0::/\n",
        f"sys/fs/cgroup/{mounted}/cpu.cfs_quota_us": "150000\n",
        f"sys/fs/cgroup/{mounted}/cpu.cfs_period_us": "100000\n",
    }
    roots = planted(tmp_path, files)
    assert quota.cores(roots.proc, roots.sys) == 1.5


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/\n"},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "half a core\n"},
        {
            "proc/self/cgroup": "2:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    ],
)
def test_without_a_quota_there_is_none(tmp_path: Path, files: dict[str, str]) -> None:
    roots = planted(tmp_path, files)
    assert quota.cores(roots.proc, roots.sys) is None


def test_another_quota_is_another_class(tmp_path: Path) -> None:
    """Profiles hold for a class: with another quota everything is measured again."""
    files = {**RASPBERRY_PI_5, "proc/self/cgroup": "0::/\n"}
    free = fingerprint.take(roots=planted(tmp_path / "free", files))
    limited = {
        cores: fingerprint.take(
            roots=planted(tmp_path / str(cores), files | {"sys/fs/cgroup/cpu.max": f"{cores}0 10"})
        )
        for cores in (1, 2)
    }
    assert [one.cpu_quota_cores for one in limited.values()] == [1.0, 2.0]
    assert len({one.device_class for one in (free, *limited.values())}) == 3


@contextlib.contextmanager
def real_cgroup() -> Generator[tuple[Path, str]]:
    """A cgroup of this kernel with a quota of half a core: its folder, and the file with its members."""
    root, name = Path("/sys/fs/cgroup"), f"tiermesh-test-{os.getpid()}"
    ways = (
        (root / name, {"cpu.max": "50000 100000"}),
        (root / "cpu" / name, {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}),
    )
    for folder, files in ways:
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if all((folder / file).exists() for file in files):
                for file, text in files.items():
                    (folder / file).write_text(text)
                yield folder, "cgroup.procs"
                return
        finally:
            folder.rmdir()
    pytest.skip("no cgroup with a CPU quota can be made here: that needs root and a CPU controller")


def test_a_quota_of_this_kernel_is_found_and_stops_what_is_kept_busy() -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from agent.profiling.fingerprint import quota\n"
        "Path(sys.argv[1]).write_text('0')\n"
        "print(quota.cores(Path('/proc'), Path('/sys')))\n"
        "begun, cpu = time.perf_counter(), time.process_time()\n"
        "while time.process_time() - cpu < 0.4: pass\n"
        "print(time.perf_counter() - begun)\n"
    )
    with real_cgroup() as (folder, members):
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder / members)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    found, took = map(float, done.stdout.split())
    assert found == 0.5
    # 0.4 s of computing at half a core; the first period's 0.05 s may come at once.
    assert took >= 0.7 * sustained(0.4, 0.4, found)


def test_what_holds_a_processor_back_now_is_told(tmp_path: Path) -> None:
    cpus, thermal = "sys/devices/system/cpu", "sys/class/thermal"
    roots = planted(
        tmp_path,
        {
            f"{cpus}/cpu0/thermal_throttle/core_throttle_count": "3\n",
            f"{cpus}/cpu1/thermal_throttle/core_throttle_count": "4\n",
            f"{cpus}/cpu0/cpufreq/scaling_cur_freq": "600000\n",
            f"{cpus}/cpu0/cpufreq/scaling_max_freq": "1800000\n",
            f"{thermal}/cooling_device0/type": "thermal-cpufreq-0\n",
            f"{thermal}/cooling_device0/cur_state": "2\n",
            f"{thermal}/cooling_device0/max_state": "5\n",
            f"{thermal}/cooling_device1/type": "pwm-fan\n",
            f"{thermal}/cooling_device1/cur_state": "4\n",
            f"{thermal}/cooling_device1/max_state": "4\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
        },
    )
    assert throttling.state(roots.sys, FACTS) == {
        "thermal_throttle_count": 7,
        "mhz": 600.0,
        "limit_mhz": 1800.0,
        "cooling": {"thermal-cpufreq-0 (cooling_device0)": "step 2 of 5"},
        "held_back_by": ["under-voltage", "throttled"],
    }
    assert throttling.state(tmp_path / "nowhere", FACTS) == {}
