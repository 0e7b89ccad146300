"""The seam to inference runtimes, each a module here, imported only when a variant asks for it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from tiermesh.documents import fingerprint
from tiermesh.errors import Unsupported


class Session(Protocol):
    """A loaded model. Not thread-safe: one batch at a time."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the model's inputs."""
        ...

    def run(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """One batch: NumPy arrays by input name in, by output name out, the first axis the item."""
        ...

    def close(self) -> None:
        """Give the model's memory back."""
        ...


class Runtime(Protocol):
    """An inference library on this device."""

    def describe(self) -> fingerprint.Runtime:
        """Version and providers, or why it cannot be used. Never raises or imports the library."""
        ...

    def start(self) -> None:
        """Import the library: what that takes of memory is the process's, not a variant's.

        Raises:
            Unsupported: it is installed and does not import.
        """
        ...

    def load(self, model: Path, files: Mapping[str, Path], *, threads: int) -> Session:
        """Load a model; Unsupported says why this runtime cannot.

        `files` are the variant's artifacts by file name, for a format that spreads over several.
        """
        ...


MODULES: Final = {"onnx": "agent.model_host.runtimes.onnx"}


def runtime(name: str) -> Runtime:
    """The runtime of that name.

    Raises:
        Unsupported: there is none of that name, or its library is not installed here.
    """
    if name not in MODULES:
        raise Unsupported(f"there is no runtime {name!r}", fix=f"Known: {', '.join(MODULES)}")
    found = _seam(name)
    missing = found.describe().unavailable
    if missing is not None:
        raise Unsupported(
            f"the runtime {name!r} is not available on this device",
            why=missing,
            fix=f"Install it there: pip install 'tiermesh[{name}]'",
            runtime=name,
        )
    return found


def describe() -> list[fingerprint.Runtime]:
    """Every known runtime as this device has it, or why it has not; nothing heavy is imported."""
    return [_seam(name).describe() for name in MODULES]


def _seam(name: str) -> Runtime:
    return importlib.import_module(MODULES[name]).RUNTIME
