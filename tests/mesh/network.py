"""Devices with networks of their own: a namespace each, joined by a bridge in one more. All of it goes at the end.

Needs root and `ip` (iproute2); `unavailable()` says why a machine cannot have it. Interfaces are `eth0` inside, so the
names of namespaces and of the bridge's ends are all that others could meet; they carry a random part.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import uuid
from pathlib import Path
from typing import Final, Self

SUBNET: Final = "10.77.0"


def unavailable() -> str:
    """Why there are no network namespaces here; empty where there are."""
    if os.geteuid() != 0:
        return "network namespaces need root here"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "iproute2 (ip, tc) is not installed"
    try:
        with Network() as network:
            network.add("probe")
    except NetworkFailed as error:
        return f"network namespaces cannot be made here: {error}"
    return ""


class NetworkFailed(Exception):
    """A command of iproute2 failed."""


class Network:
    """Some namespaces on one bridge. Make it with `with`: it is removed at the end, whatever happened."""

    def __init__(self) -> None:
        self._mark = f"tm{uuid.uuid4().hex[:6]}"
        self._switch = f"{self._mark}-lan"
        self._addresses: dict[str, str] = {}
        self._mounts: list[Path] = []

    def __enter__(self) -> Self:
        try:
            self._make(self._switch)
            self._in(self._switch, "ip link add br0 type bridge")
            self._in(self._switch, "ip link set br0 type bridge forward_delay 0 mcast_snooping 0")
            self._in(self._switch, "ip link set br0 up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, name: str) -> str:
        """A namespace with an address on the bridge, which is returned."""
        number = len(self._addresses) + 1
        address = f"{SUBNET}.{number}"
        self._addresses[name] = address
        space = self.space(name)
        self._make(space)
        run(f"ip link add eth0 netns {space} type veth peer name p{number} netns {self._switch}")
        self._in(self._switch, f"ip link set p{number} master br0 up")
        self._in(space, "ip link set lo up")
        self._in(space, f"ip address add {address}/24 dev eth0")
        self._in(space, "ip link set eth0 up")
        self._in(space, "ip route add default dev eth0")
        return address

    def space(self, name: str) -> str:
        """The name of a device's namespace."""
        return f"{self._mark}-{name}"

    def command(self, name: str) -> list[str]:
        """What a command line begins with to run in a device's namespace."""
        return ["ip", "netns", "exec", self.space(name)]

    def down(self, name: str) -> None:
        """Take a device's link away; packets vanish, and nobody is told."""
        self._port(name, "down")

    def up(self, name: str) -> None:
        """Give a device its link back."""
        self._port(name, "up")

    def slow(self, name: str, mbit: float) -> None:
        """Make the link to and from a device slow."""
        for where in self._ends(name):
            self._in(
                where[0],
                f"tc qdisc replace dev {where[1]} root tbf rate {mbit}mbit burst 16kb latency 400ms",
            )

    def fast(self, name: str) -> None:
        """Undo `slow`."""
        for space, device in self._ends(name):
            self._in(space, f"tc qdisc del dev {device} root")

    def disk(self, folder: Path, size_bytes: int) -> None:
        """Mount a small disk of its own on a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        run(f"mount -t tmpfs -o size={size_bytes} {self._mark} {folder}")
        self._mounts.append(folder)

    def close(self) -> None:
        """Kill what runs in the namespaces, and remove them."""
        for name in [*map(self.space, self._addresses), self._switch]:
            for pid in _pids(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for folder in self._mounts:
            subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)  # noqa: S607
        for name in [*map(self.space, self._addresses), self._switch]:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)  # noqa: S607
        self._addresses.clear()
        self._mounts.clear()

    def _ends(self, name: str) -> list[tuple[str, str]]:
        number = list(self._addresses).index(name) + 1
        return [(self.space(name), "eth0"), (self._switch, f"p{number}")]

    def _port(self, name: str, state: str) -> None:
        """The bridge's end: the device still sees its interface, as behind a switch that lost power."""
        space, port = self._ends(name)[1]
        self._in(space, f"ip link set {port} {state}")

    def _make(self, space: str) -> None:
        run(f"ip netns add {space}")

    def _in(self, space: str, command: str) -> None:
        run(f"ip netns exec {space} {command}")


def run(command: str) -> str:
    """Run a command of the system; NetworkFailed with what it says where it fails."""
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise NetworkFailed(f"{command}: {done.stderr.strip()}")
    return done.stdout


def _pids(space: str) -> list[int]:
    done = subprocess.run(
        ["ip", "netns", "pids", space],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(pid) for pid in done.stdout.split()]
