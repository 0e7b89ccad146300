"""Downloads packages with the registries' own clients, and installs none of them.

The client knows the machine's mirrors, proxies and certificates; what it brings is checked by digest afterwards.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Final, Protocol

from coordinator.variants.ladder import Package
from tiermesh.errors import TiermeshError, Unreachable, Unsupported

_NO_NETWORK: Final = re.compile(
    r"connection|connect|network|resol|timed? ?out|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|proxy|unreachable",
    re.IGNORECASE,
)
_RETRIES: Final = 2
_PIP_WITH_RAW_PROGRESS: Final = (24, 1)
_PIP_PROGRESS: Final = re.compile(r"Progress (\d+) of (\d+)")


class Registry(Protocol):
    """Brings a package into a folder."""

    def download(self, package: Package, folder: Path, seen: Callable[[int], None]) -> Path:
        """The downloaded archive; `seen` hears how many bytes there are so far, where the client tells.

        Raises:
            Unsupported: the client is not on this machine.
            Unreachable: the registry does not answer.
            TiermeshError: the client failed, for the reason given.
        """
        ...


class Pypi:
    """Wheels, by the pip of this Python."""

    def download(self, package: Package, folder: Path, seen: Callable[[int], None]) -> Path:
        """See `Registry`."""
        command = [
            *(sys.executable, "-m", "pip", "download", f"{package.name}=={package.version}"),
            *("--no-deps", "--only-binary", ":all:", "--dest", str(folder)),
            *("--retries", str(_RETRIES), "--timeout", "20"),
            *("--disable-pip-version-check", "--no-input"),
            *("--progress-bar", "raw" if _pip_version() >= _PIP_WITH_RAW_PROGRESS else "off"),
        ]

        def heard(line: str) -> None:
            if match := _PIP_PROGRESS.search(line):
                seen(int(match[1]))

        _run(command, package, folder, heard)
        return _only_file(folder, package)


class Npm:
    """Tarballs, by `npm pack`."""

    def download(self, package: Package, folder: Path, seen: Callable[[int], None]) -> Path:
        """See `Registry`."""
        command = [
            *(_client("npm", package), "pack", f"{package.name}@{package.version}"),
            *("--pack-destination", str(folder)),
            *("--ignore-scripts", "--fetch-retries", str(_RETRIES)),
        ]
        _run(command, package, folder)
        return _only_file(folder, package)


class Apt:
    """Debian packages, by `apt-get download`."""

    def download(self, package: Package, folder: Path, seen: Callable[[int], None]) -> Path:
        """See `Registry`."""
        command = [_client("apt-get", package), "download", f"{package.name}={package.version}"]
        _run(command, package, folder)
        return _only_file(folder, package)


REGISTRIES: Final[Mapping[str, Registry]] = {"pypi": Pypi(), "npm": Npm(), "apt": Apt()}


@cache
def _pip_version() -> tuple[int, ...]:
    command = [sys.executable, "-m", "pip", "--version"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    match = re.match(r"pip (\d+)\.(\d+)", answer.stdout)
    if match is None:
        raise Unsupported(
            "packages cannot be downloaded",
            why="this Python has no pip",
            fix=f"Run: {Path(sys.executable).name} -m ensurepip",
        )
    return int(match[1]), int(match[2])


def _client(name: str, package: Package) -> str:
    path = shutil.which(name)
    if path is None:
        raise Unsupported(
            f"{package} cannot be downloaded",
            why=f"it is a package of {package.registry}, and there is no {name} on this machine",
            fix=f"Install {name}, or leave this model out",
        )
    return path


def _run(
    command: list[str],
    package: Package,
    folder: Path,
    heard: Callable[[str], None] = lambda _: None,
) -> None:
    """Run the client in `folder`, passing on its lines; its last words go into the error."""
    words: list[str] = []
    with subprocess.Popen(  # noqa: S603 - names and versions are checked by the ladder's schema
        command,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C", "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in process.stdout or ():
                heard(line)
                words.append(line.strip())
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise _failure(package, [line for line in words if line])


def _failure(package: Package, words: list[str]) -> TiermeshError:
    what = f"{package} could not be downloaded from {package.registry}"
    no_network = next((line for line in words if _NO_NETWORK.search(line)), None)
    if no_network is not None:
        return Unreachable(
            what,
            why=f"the registry does not answer: {no_network}",
            fix="Connect to the network, or set the mirror of this machine; files that are present are reused",
        )
    why = next((line for line in reversed(words) if "error" in line.lower()), " ".join(words[-2:]))
    return TiermeshError(what, why=why, fix="Check the package's name and version in the ladder")


def _only_file(folder: Path, package: Package) -> Path:
    files = [path for path in folder.iterdir() if path.is_file()]
    if len(files) != 1:
        raise TiermeshError(
            f"{package} could not be downloaded",
            why=f"the client left {len(files)} files where one archive was due",
        )
    return files[0]
