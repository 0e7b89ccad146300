"""Accelerators: GPUs, NPUs and Edge TPUs that the kernel or the driver's tool shows."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from agent.profiling.fingerprint import reading
from tiermesh.documents.fingerprint import Accelerator

_TOOL_SECONDS: Final = 5.0
_QUERY: Final = (
    "nvidia-smi",
    "--query-gpu=name,memory.total,driver_version",
    "--format=csv,noheader,nounits",
)
# Kernel drivers of GPUs that compute; those of plain displays are left out.
_GPU_DRIVERS: Final = {
    "amdgpu": "AMD GPU",
    "etnaviv": "Vivante GPU",
    "i915": "Intel GPU",
    "msm": "Adreno GPU",
    "panfrost": "Mali GPU",
    "panthor": "Mali GPU",
    "v3d": "VideoCore GPU",
    "xe": "Intel GPU",
}
_NPU_DRIVERS: Final = {"amdxdna": "AMD NPU", "intel_vpu": "Intel NPU", "rocket": "Rockchip NPU"}
_CORAL_USB: Final = {("1a6e", "089a"), ("18d1", "9302")}


def probe(
    proc: Path, sys: Path, etc: Path, run: Callable[[], str] | None = None
) -> list[Accelerator]:
    """All that are found. `run` gives the output of nvidia-smi, empty where there is none."""
    return [
        *_nvidia(proc, etc, run or _run_nvidia_smi),
        *_drm(sys),
        *_npus(sys),
        *_edge_tpus(sys),
    ]


def _nvidia(proc: Path, etc: Path, run: Callable[[], str]) -> list[Accelerator]:
    """A Jetson's own GPU, which its nvidia-smi does not list or knows little of; else the cards."""
    return _jetson(proc, etc) or _nvidia_smi(run()) or _nvidia_driver(proc)


def _run_nvidia_smi() -> str:
    tool = shutil.which(_QUERY[0])
    if tool is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command
            [tool, *_QUERY[1:]], capture_output=True, text=True, timeout=_TOOL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _nvidia_smi(output: str) -> list[Accelerator]:
    rows = csv.reader(output.splitlines(), skipinitialspace=True)
    return [
        Accelerator(
            name=name,
            kind="gpu",
            memory_bytes=int(mib) * 2**20 if mib.isdigit() else None,
            driver=f"nvidia {driver}",
        )
        for name, mib, driver in (row for row in rows if len(row) == len(("name", "mib", "driver")))
    ]


def _nvidia_driver(proc: Path) -> list[Accelerator]:
    """What the kernel module says by itself, where nvidia-smi is not installed."""
    files = reading.entries(proc / "driver/nvidia/gpus", "*/information")
    models = [dict(reading.fields(file)).get("Model", "NVIDIA GPU") for file in files]
    return [Accelerator(name=model, kind="gpu", driver="nvidia") for model in models]


def _jetson(proc: Path, etc: Path) -> list[Accelerator]:
    """It shares the device's memory, so it has none of its own."""
    compatible = reading.text(proc / "device-tree/compatible").split("\0")
    chip = next(
        (name.split(",")[1] for name in compatible if name.startswith("nvidia,tegra")), None
    )
    if chip is None:
        return []
    release = reading.text(etc / "nv_tegra_release").partition(",")[0].strip("# ")
    return [Accelerator(name=f"NVIDIA {chip.title()}", kind="gpu", driver=release or None)]


def _drm(sys: Path) -> Iterator[Accelerator]:
    for device in reading.entries(sys / "class/drm", "card[0-9]*/device"):
        if "-" in device.parent.name:
            continue  # a connector, such as card0-HDMI-A-1
        driver = _driver(device)
        if driver in _GPU_DRIVERS:
            yield Accelerator(
                name=_named(device, _GPU_DRIVERS[driver]),
                kind="gpu",
                memory_bytes=reading.number(device / "mem_info_vram_total"),
                driver=driver,
            )


def _npus(sys: Path) -> Iterator[Accelerator]:
    for device in reading.entries(sys / "class/accel", "accel*/device"):
        driver = _driver(device)
        name = _NPU_DRIVERS.get(driver, "NPU")
        yield Accelerator(name=_named(device, name), kind="npu", driver=driver or None)
    for chip in reading.entries(sys / "class/hailo_chardev"):
        yield Accelerator(name="Hailo", kind="npu", driver=f"hailo ({chip.name})")


def _edge_tpus(sys: Path) -> Iterator[Accelerator]:
    for _ in reading.entries(sys / "class/apex"):
        yield Accelerator(name="Coral Edge TPU (PCIe)", kind="tpu", driver="apex")
    for device in reading.entries(sys / "bus/usb/devices"):
        product = (reading.text(device / "idVendor"), reading.text(device / "idProduct"))
        if product in _CORAL_USB:
            yield Accelerator(name="Coral Edge TPU (USB)", kind="tpu")


def _driver(device: Path) -> str:
    return dict(reading.fields(device / "uevent", "=")).get("DRIVER", "")


def _named(device: Path, family: str) -> str:
    """The family and the PCI id, by which the exact model can be looked up."""
    vendor, product = (
        reading.text(device / part).removeprefix("0x") for part in ("vendor", "device")
    )
    return f"{family} [{vendor}:{product}]" if vendor and product else family
