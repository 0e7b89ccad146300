"""Taking the fingerprint of this device from small probes.

Each probe takes what it reads as arguments, the kernel's files below roots and `HostFacts`, so that a test can show
it another device. A probe that fails is logged and leaves its field at what "not known" is there; the others still
count.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agent.host_facts import HostFacts, host_facts
from agent.model_host import runtimes
from agent.profiling.fingerprint import (
    accelerators,
    cpu,
    disk,
    host,
    memory,
    modules,
    network,
    power,
    quota,
)
from tiermesh import __version__
from tiermesh.documents.fingerprint import Cpu, Emulation, Fingerprint

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Roots:
    """Where the kernel and the distribution tell what this device is."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    etc: Path = Path("/etc")


def take(
    threads: int | None = None,
    slowdown: float | None = None,
    *,
    folder: Path | None = None,
    roots: Roots | None = None,
    facts: HostFacts | None = None,
) -> Fingerprint:
    """What this device is.

    `threads` is how many a batch may use, None for all cores that this process may run on;
    `slowdown` is set on an emulated device. `folder` says whose disk counts, None for the home's. `facts` are those
    of this machine unless others are given.
    """
    at, known = roots or Roots(), facts or host_facts()
    unknown_cpu = Cpu(
        model="unknown",
        architecture=platform.machine(),
        cores_physical=os.cpu_count() or 1,
        cores_logical=os.cpu_count() or 1,
    )
    return Fingerprint(
        host=_tried("host", lambda: host.host_id(at.proc, at.etc), "unknown"),
        os=_tried("os", lambda: host.operating_system(at.proc, at.etc), platform.platform()),
        python=platform.python_version(),
        agent_version=__version__,
        cpu=_tried("cpu", lambda: cpu.probe(at.proc, at.sys, known), unknown_cpu),
        memory_bytes=_tried("memory", lambda: memory.total_bytes(at.proc, at.sys, known), 0),
        disk_bytes=_tried("disk", lambda: disk.total_bytes(folder or Path.home()), 0),
        accelerators=_tried(
            "accelerators", lambda: accelerators.probe(at.proc, at.sys, at.etc), []
        ),
        runtimes=_tried("runtimes", runtimes.describe, []),
        modules=_tried("modules", modules.probe, {}),
        interfaces=_tried("network", lambda: network.probe(at.sys, known.interfaces()), []),
        power=_tried("power", lambda: power.supply(at.sys, known), "unknown"),
        temperature_sensors=_tried("temperature", lambda: power.temperature_sensors(at.sys), []),
        cpu_quota_cores=_tried("cpu quota", lambda: quota.cores(at.proc, at.sys), None),
        threads=threads or _tried("usable cores", known.usable_cores, None) or os.cpu_count() or 1,
        emulated=Emulation(slowdown=slowdown) if slowdown is not None and slowdown > 1 else None,
    )


def _tried(what: str, probe: Callable[[], T], otherwise: T) -> T:
    try:
        return probe()
    except Exception as error:  # noqa: BLE001 - one probe is not the device
        log.warning("cannot read the %s of this device: %s: %s", what, type(error).__name__, error)
        return otherwise
