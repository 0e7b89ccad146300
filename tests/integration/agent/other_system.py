"""A process that looks like one on another system, which starts an agent: ``python -m ... MAC|WINDOWS|BARE FOLDER``.

What only Linux or only POSIX has is taken away before the agent is imported: modules, functions, /proc, /sys, and
signal handlers of the event loop. MAC and WINDOWS have the answers of a psutil there, BARE has none. What cannot be
imitated here: another kernel's sockets, processes and file system.
"""

from __future__ import annotations

import asyncio
import builtins
import importlib
import importlib.abc
import io
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

POSIX_MODULES = ("fcntl", "grp", "pwd", "resource", "termios")
LINUX_NAMES = ("sched_getaffinity", "sched_setaffinity", "O_TMPFILE", "memfd_create")
POSIX_NAMES = ("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "getuid", "killpg", "pread", "sysconf")


class Blocker(importlib.abc.MetaPathFinder):
    """Refuses to import some modules."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def without(*names: str) -> None:
    """Block modules, also those that are imported already."""
    for name in names:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Blocker(names))


def hide(module: Any, *names: str) -> None:
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


def hidden(call: Callable[..., Any]) -> Callable[..., Any]:
    """A function of paths that finds nothing below /proc and /sys."""

    def guarded(path: Any, *args: Any, **options: Any) -> Any:
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(("/proc", "/sys")):
            raise FileNotFoundError(2, "No such file or directory", os.fspath(path))
        return call(path, *args, **options)

    return guarded


def become(system: str) -> None:
    """Take away what the system does not have."""
    for module, names in ((os, ("open", "stat", "lstat", "listdir", "scandir")), (io, ("open",))):
        for name in names:
            setattr(module, name, hidden(getattr(module, name)))
    builtins.open = io.open
    hide(os, *LINUX_NAMES)
    without("psutil")
    if system == "WINDOWS":
        without("psutil", *POSIX_MODULES)
        hide(os, *POSIX_NAMES)
        hide(signal, "SIGKILL", "SIGHUP", "SIGSTOP")
        for name in ("add_signal_handler", "add_reader"):
            setattr(asyncio.SelectorEventLoop, name, _not_here)
    platform.system = lambda: {"MAC": "Darwin", "WINDOWS": "Windows"}.get(system, "Linux")


def _not_here(*_: object) -> None:
    raise NotImplementedError


def with_answers_of_psutil(system: str) -> None:
    """Make `import psutil` give the answers of a machine of that system."""
    from tests import psutil_answers

    options = {"MAC": psutil_answers.MACBOOK, "WINDOWS": psutil_answers.WINDOWS_PC}[system]
    sys.meta_path = [one for one in sys.meta_path if not isinstance(one, Blocker)]
    sys.modules["psutil"] = psutil_answers.answers(**options)
    if system == "WINDOWS":
        without(*POSIX_MODULES)


async def started(folder: str) -> dict[str, Any]:
    """What an agent says of itself, and what became of a stop."""
    from agent import runner
    from agent.config import Config
    from agent.control import look
    from tiermesh import PROTOCOL_VERSION, wire
    from tiermesh.v1 import device_pb2, device_pb2_grpc

    config = Config(state=folder, name="other", announce=False)
    async with (
        runner.running(config) as address,
        wire.channel(wire.LOOPBACK, address, wire.ANY_AGENT) as channel,
    ):
        request = device_pb2.DescribeRequest(protocol_version=PROTOCOL_VERSION)
        said = await device_pb2_grpc.DeviceStub(channel).Describe(request, timeout=10)
        sample = await look(channel, said.device_id)
    return {
        "name": said.name,
        "fingerprint": json.loads(said.fingerprint),
        "memory_used_bytes": sample.memory_used_bytes,
    }


async def stops_with_stdin(folder: str) -> bool:
    """Whether an agent ends when its standard input does; that is closed."""
    from agent import runner
    from agent.config import Config

    config = Config(state=folder, announce=False)
    async with asyncio.timeout(20):
        await runner.run(config, exit_with_stdin=True)
    return True


def main() -> None:
    """Print what was found, as JSON."""
    system, folder = sys.argv[1:]
    become(system)
    if system != "BARE":
        with_answers_of_psutil(system)
    for module in ("agent.cli", "agent.profiling.benchmark", "agent.serving.worker"):
        importlib.import_module(module)

    found = asyncio.run(started(folder))
    found["stopped"] = asyncio.run(stops_with_stdin(folder))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
