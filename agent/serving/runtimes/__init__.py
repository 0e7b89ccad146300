"""The seam to inference runtimes: each is a module here, imported only when a variant asks for it."""

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
        """Version and providers, or why it cannot be used. Never raises."""
        ...

    def load(self, model: Path, files: Mapping[str, Path], *, threads: int) -> Session:
        """Load a model; Unsupported says why this runtime cannot."""
        ...


MODULES: Final = {"onnx": "agent.serving.runtimes.onnx"}


def runtime(name: str) -> Runtime:
    """The runtime of that name.

    Raises:
        Unsupported: there is none of that name, or its library is not installed here.
    """
    if name not in MODULES:
        raise Unsupported(f"there is no runtime {name!r}", fix=f"Known: {', '.join(MODULES)}")
    found: Runtime = importlib.import_module(MODULES[name]).RUNTIME
    missing = found.describe().unavailable
    if missing is not None:
        raise Unsupported(
            f"the runtime {name!r} is not available on this device",
            why=missing,
            fix=f"Install it there: pip install 'tiermesh[{name}]'",
            runtime=name,
        )
    return found
