"""What psutil answers on machines that are not here, as far as the agent asks it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from agent.host_facts import PsutilFacts


class NoSuchProcess(Exception):
    """psutil's error of a process that has ended."""


def answers(
    *,
    logical: int = 4,
    physical: int | None = 4,
    memory: tuple[int, int] = (8 * 2**30, 6 * 2**30),
    times: dict[str, float] | None = None,
    clocks: list[tuple[float, float]] | None = None,
    interfaces: dict[str, tuple[bool, int, list[tuple[str, str | None]]]] | None = None,
    battery: tuple[float, bool | None] | None = None,
    has_affinity: bool = True,
    has_sensors: bool = True,
) -> Any:
    """A module like psutil: memory in all and available; now and highest MHz; up, speed and (address, netmask)."""
    seconds = times or {"user": 10.0, "nice": 0.0, "system": 5.0, "idle": 85.0}
    known = interfaces or {"lo": (True, 0, [("127.0.0.1", "255.0.0.0")])}

    def process(pid: int | None = None) -> Any:
        if pid is not None and pid > 4_000_000:
            raise NoSuchProcess(pid)
        made = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=42 * 1024))
        if has_affinity:
            made.cpu_affinity = lambda: [0, 2]
        return made

    found = SimpleNamespace(
        Error=NoSuchProcess,
        Process=process,
        cpu_count=lambda logical: {True: logical_count, False: physical}[logical],
        cpu_freq=lambda percpu: [SimpleNamespace(current=c, max=m) for c, m in clocks or []],
        cpu_times=lambda: SimpleNamespace(_asdict=lambda: seconds),
        virtual_memory=lambda: SimpleNamespace(total=memory[0], available=memory[1]),
        net_if_stats=lambda: {
            name: SimpleNamespace(isup=up, speed=speed) for name, (up, speed, _) in known.items()
        },
        net_if_addrs=lambda: {
            name: [SimpleNamespace(address=a, netmask=mask) for a, mask in addresses]
            for name, (_, _, addresses) in known.items()
        },
    )
    logical_count = logical
    if has_sensors:
        found.sensors_battery = lambda: (
            None
            if battery is None
            else SimpleNamespace(percent=battery[0], power_plugged=battery[1])
        )
    return found


def facts(**options: Any) -> PsutilFacts:
    """The facts of a machine on which psutil gives these `answers`."""
    return PsutilFacts(answers(**options))


MACBOOK: dict[str, Any] = {
    "logical": 8,
    "physical": 8,
    "memory": (16 * 2**30, 9 * 2**30),
    "clocks": [(2424.0, 3504.0)],
    "interfaces": {
        "lo0": (True, 0, [("127.0.0.1", "255.0.0.0"), ("::1", "ffff:" * 7 + "ffff")]),
        "en0": (
            True,
            0,
            [
                ("192.168.1.7", "255.255.255.0"),
                ("fe80::1c:aa%en0", "ffff:ffff:ffff:ffff::"),
                ("f0:18:98:01:02:03", None),
            ],
        ),
        "en5": (False, 0, [("169.254.3.4", "255.255.0.0")]),
        "awdl0": (True, 0, [("02:00:00:00:00:01", None)]),
    },
    "battery": (61.0, False),
    "has_affinity": False,
}
WINDOWS_PC: dict[str, Any] = {
    "logical": 16,
    "physical": 8,
    "memory": (32 * 2**30, 20 * 2**30),
    "clocks": [(3600.0, 3600.0)],
    "times": {"user": 10.0, "system": 6.0, "idle": 84.0, "interrupt": 1.0, "dpc": 0.5},
    "interfaces": {
        "Loopback Pseudo-Interface 1": (True, 1073, [("127.0.0.1", "255.0.0.0"), ("::1", None)]),
        "Ethernet": (True, 1000, [("10.0.0.9", "255.255.255.0"), ("fe80::9", None)]),
    },
}
