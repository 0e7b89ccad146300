"""What the operating system says of this machine: cores, memory, processor time, interfaces, battery.

psutil reads it on Linux, macOS and Windows. Where it is not installed, since it has no wheel for the processor, the
few facts that the agent cannot do without are read from Linux's /proc, and the rest is unknown. Both are slow to
change or cheap to read; what psutil does not tell (cgroups, Arm cores, power supplies) is read by the probes of
`agent.profiling.fingerprint`.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)

PROC: Final = Path("/proc")
_STAT_FIELDS: Final = 8
"""user nice system idle iowait irq softirq steal"""
_IDLE: Final = ("idle", "iowait")
_COUNTED_TWICE: Final = ("guest", "guest_nice", "interrupt", "dpc")
"""Times that are part of another: of user and nice (Linux), of system (Windows)."""


class HostMemory(NamedTuple):
    """Bytes of the whole machine; `used_bytes` are those that cannot be used without swapping."""

    total_bytes: int
    used_bytes: int


class HostTime(NamedTuple):
    """Seconds since the start, summed over all cores: computing, in all, and taken by a hypervisor."""

    busy_s: float
    total_s: float
    stolen_s: float


class HostClock(NamedTuple):
    """The clock of the slowest core now, and the highest that any may have now, in MHz."""

    now_mhz: float
    limit_mhz: float


class HostInterface(NamedTuple):
    """A network interface; `addresses` have the length of their network, such as ``10.0.0.5/24``."""

    name: str
    addresses: list[str]
    is_up: bool = True
    speed_mbps: int | None = None


class HostBattery(NamedTuple):
    """How full the battery is, 0 to 100, and whether mains feed the machine; None: not known."""

    level_percent: float
    is_plugged: bool | None


class HostFacts(Protocol):
    """The facts of one machine. None, 0 and an empty list stand for what is not known."""

    def logical_cores(self) -> int | None:
        """Processors that are online."""
        ...

    def physical_cores(self) -> int | None:
        """Cores; those with two threads count once."""
        ...

    def usable_cores(self) -> int | None:
        """Processors that this process may run on."""
        ...

    def clock(self) -> HostClock | None:
        """The clocks of the cores."""
        ...

    def memory(self) -> HostMemory | None:
        """The machine's memory, whatever this process may use of it."""
        ...

    def time(self) -> HostTime | None:
        """Processor time of the machine."""
        ...

    def resident_bytes(self, pid: int | None = None) -> int:
        """Resident memory of a process, None for this one; 0 where there is none, or it may not be seen."""
        ...

    def interfaces(self) -> list[HostInterface]:
        """All network interfaces with an IP address."""
        ...

    def battery(self) -> HostBattery | None:
        """The battery that can feed the machine."""
        ...


class PsutilFacts:
    """Facts from psutil, or in tests from something that answers like it."""

    def __init__(self, psutil: Any) -> None:
        self._psutil = psutil

    def logical_cores(self) -> int | None:
        """See `HostFacts`."""
        return self._psutil.cpu_count(logical=True)

    def physical_cores(self) -> int | None:
        """See `HostFacts`."""
        return self._psutil.cpu_count(logical=False)

    def usable_cores(self) -> int | None:
        """See `HostFacts`; macOS binds no process to cores."""
        with contextlib.suppress(AttributeError, OSError):
            return len(self._psutil.Process().cpu_affinity())
        return self.logical_cores()

    def clock(self) -> HostClock | None:
        """See `HostFacts`; a machine that does not tell its highest clock says 0, and counts as not known."""
        with contextlib.suppress(AttributeError, OSError, NotImplementedError):
            cores = [core for core in self._psutil.cpu_freq(percpu=True) if core.max]
            if cores:
                return HostClock(min(c.current for c in cores), max(c.max for c in cores))
        return None

    def memory(self) -> HostMemory | None:
        """See `HostFacts`."""
        found = self._psutil.virtual_memory()
        return HostMemory(found.total, max(found.total - found.available, 0))

    def time(self) -> HostTime | None:
        """See `HostFacts`."""
        times: dict[str, float] = self._psutil.cpu_times()._asdict()
        total = sum(seconds for name, seconds in times.items() if name not in _COUNTED_TWICE)
        stolen = times.get("steal", 0.0)
        idle = sum(times.get(name, 0.0) for name in _IDLE)
        return HostTime(total - idle - stolen, total, stolen)

    def resident_bytes(self, pid: int | None = None) -> int:
        """See `HostFacts`."""
        with contextlib.suppress(self._psutil.Error):
            return self._psutil.Process(pid).memory_info().rss
        return 0

    def interfaces(self) -> list[HostInterface]:
        """See `HostFacts`."""
        stats = self._psutil.net_if_stats()
        return [
            HostInterface(name, addresses, stats[name].isup, stats[name].speed or None)
            for name, found in self._psutil.net_if_addrs().items()
            if name in stats and (addresses := _with_networks(found))
        ]

    def battery(self) -> HostBattery | None:
        """See `HostFacts`; not every system that psutil runs on has this."""
        with contextlib.suppress(AttributeError, OSError):
            found = self._psutil.sensors_battery()
            return None if found is None else HostBattery(found.percent, found.power_plugged)
        return None


def _with_networks(found: Iterable[Any]) -> list[str]:
    return [
        f"{address}/{_prefix(one.netmask, address)}"
        for one in found
        if (address := _ip(one.address)) is not None
    ]


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IP address without its scope; None for a hardware address."""
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _prefix(netmask: str | None, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    """The length of a network; without a mask, which Windows leaves out for IPv6, the address alone."""
    if netmask is None:
        return address.max_prefixlen
    return int(ipaddress.ip_address(netmask)).bit_count()


class ProcFacts:
    """Without psutil: what Linux says below /proc, and what Python tells by itself."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc

    def logical_cores(self) -> int | None:
        """See `HostFacts`."""
        return os.cpu_count()

    def physical_cores(self) -> int | None:
        """See `HostFacts`; not known, and the small boards without a wheel have one thread a core."""
        return None

    def usable_cores(self) -> int | None:
        """See `HostFacts`."""
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count()

    def clock(self) -> HostClock | None:
        """See `HostFacts`; not known."""
        return None

    def memory(self) -> HostMemory | None:
        """See `HostFacts`."""
        fields = self._kilobytes("meminfo")
        total = 1024 * fields.get("MemTotal:", 0)
        available = 1024 * fields.get("MemAvailable:", 0)
        return HostMemory(total, max(total - available, 0)) if total else None

    def time(self) -> HostTime | None:
        """See `HostFacts`."""
        words = self._text("stat").partition("\n")[0].split()[1 : _STAT_FIELDS + 1]
        try:
            ticks = [int(word) for word in words]
            user, nice, system, idle, iowait, irq, softirq, steal = ticks
        except ValueError:
            return None
        a_second = os.sysconf("SC_CLK_TCK")
        busy, total = user + nice + system + irq + softirq, sum(ticks)
        del idle, iowait
        return HostTime(busy / a_second, total / a_second, steal / a_second)

    def resident_bytes(self, pid: int | None = None) -> int:
        """See `HostFacts`."""
        return 1024 * self._kilobytes(f"{pid or 'self'}/status").get("VmRSS:", 0)

    def interfaces(self) -> list[HostInterface]:
        """See `HostFacts`; all count as up, and their speed is not known."""
        import ifaddr

        return [
            HostInterface(
                adapter.name,
                [
                    f"{ip.ip if isinstance(ip.ip, str) else ip.ip[0]}/{ip.network_prefix}"
                    for ip in adapter.ips
                ],
            )
            for adapter in ifaddr.get_adapters()
            if adapter.ips
        ]

    def battery(self) -> HostBattery | None:
        """See `HostFacts`; not known."""
        return None

    def _text(self, name: str) -> str:
        try:
            return (self._proc / name).read_text()
        except OSError:
            return ""

    def _kilobytes(self, name: str) -> dict[str, int]:
        words = (line.split() for line in self._text(name).splitlines())
        return {w[0]: int(w[1]) for w in words if len(w) > 1 and w[1].isdigit()}


@functools.cache
def host_facts() -> HostFacts:
    """The facts of this machine, from psutil where that is installed; says once in the log where it is not."""
    try:
        import psutil
    except ImportError:
        what = "from /proc" if PROC.is_dir() else "not at all, since there is no /proc"
        log.warning("psutil is not installed: host facts are read %s; install it if you can", what)
        return ProcFacts()
    return PsutilFacts(psutil)


def host_time(proc: Path = PROC) -> HostTime | None:
    """Processor time of the machine, for a process that measures itself: psutil's memory would be measured, too.

    So Linux's own file comes first. None where neither tells.
    """
    return ProcFacts(proc).time() or (host_facts().time() if proc == PROC else None)
