"""The seam to inference runtimes, and which there are.

A runtime is a module with a `RUNTIME`: one in this package, or one that an installed distribution names under the
entry point group `tiermesh.runtimes`. Its name is the module's, or the entry point's, and what a variant's `runtime`
says. Nothing else lists runtimes: what they need, which settings they take and why they cannot run here is said by
their own modules, which are imported when they are asked for, and import their libraries only in `start` and `load`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from msgspec import structs

from tiermesh.documents import fingerprint
from tiermesh.documents.reading import convert
from tiermesh.errors import InvalidDocument, TiermeshError, Unsupported

ENTRY_POINTS: Final = "tiermesh.runtimes"
"""The group under which other distributions name modules with a `RUNTIME`."""


@dataclass(frozen=True, slots=True)
class ModelToLoad:
    """What a runtime is given to load.

    `model` is the variant's model file, None where it has none; `files` are all of the variant's artifacts by file
    name, for a format that spreads over several: side by side, under these paths until `InferenceRuntime.load` returns.
    `settings` are the variant's for this runtime, such as a provider or a limit of memory: each runtime has a schema
    of its own for them. `code` is the stage code, for a runtime that computes with it.
    """

    variant: str
    model: Path | None
    files: Mapping[str, Path]
    settings: Mapping[str, Any]
    threads: int
    code: object


class LoadedModel(Protocol):
    """A loaded model. Not thread-safe: one batch at a time."""

    def run(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """One batch: NumPy arrays by input name in, by output name out, the first axis the item."""
        ...

    def close(self) -> None:
        """Give the model's memory back."""
        ...


class InferenceRuntime(Protocol):
    """An inference library on this device."""

    @property
    def library(self) -> str:
        """The library that computes, as people know it, such as ``onnxruntime``: it decides the results."""
        ...

    @property
    def install(self) -> str:
        """The command that installs it on a device."""
        ...

    @property
    def needs_model_file(self) -> bool:
        """Whether a variant must have a model file."""
        ...

    def describe(self) -> fingerprint.Runtime:
        """Version and providers, or why it cannot be used. Never raises or imports the library.

        A runtime that comes with the agent has no version: it does not tell devices apart.
        """
        ...

    def start(self) -> None:
        """Import the library: what that takes of memory is the process's, not a variant's.

        Raises:
            Unsupported: it is installed and does not import.
        """
        ...

    def load(self, model: ModelToLoad) -> LoadedModel:
        """Load a model.

        Raises:
            Unsupported: this runtime cannot, here, and why: that is what the variant's profile says then.
        """
        ...


S = TypeVar("S")


def settings_of(model: ModelToLoad, schema: type[S]) -> S:
    """The variant's settings for its runtime, checked against the runtime's own schema.

    Raises:
        Unsupported: one is unknown or wrong; `path` names it.
    """
    try:
        return convert(
            dict(model.settings), schema, f"the settings of {model.variant}", "$.settings"
        )
    except InvalidDocument as error:
        raise Unsupported(error.what, why=error.why, fix=error.fix, **error.fields) from None


def names() -> list[str]:
    """The runtimes that there are, usable on this device or not."""
    return sorted({*_built_in(), *(found.name for found in _entry_points())})


def runtime(name: str) -> InferenceRuntime:
    """The runtime of that name.

    Raises:
        Unsupported: there is none of that name, or its library is not installed here.
    """
    found = _seam(name)
    missing = found.describe().unavailable
    if missing is not None:
        raise Unsupported(
            f"the runtime {name!r} is not available on this device",
            why=missing,
            fix=f"Install it there: {found.install}",
            runtime=name,
        )
    return found


def describe() -> list[fingerprint.Runtime]:
    """Every runtime as this device has it, or why it has not; nothing heavy is imported."""
    return [_described(name) for name in names()]


def _described(name: str) -> fingerprint.Runtime:
    try:
        return structs.replace(_seam(name).describe(), name=name)
    except TiermeshError as error:
        return fingerprint.Runtime(name=name, unavailable=error.why or error.what)


def _seam(name: str) -> InferenceRuntime:
    if name in _built_in():
        return importlib.import_module(f"{__name__}.{name}").RUNTIME
    for found in _entry_points():
        if found.name == name:
            return _from_outside(found)
    raise Unsupported(f"there is no runtime {name!r}", fix=f"Known: {', '.join(names())}")


def _from_outside(entry_point: importlib.metadata.EntryPoint) -> InferenceRuntime:
    try:
        return entry_point.load().RUNTIME
    except Exception as error:
        raise Unsupported(
            f"the runtime {entry_point.name!r} does not load",
            why=f"{entry_point.value}: {type(error).__name__}: {error}",
            fix="Repair or remove the distribution that names it",
            runtime=entry_point.name,
        ) from error


def _built_in() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__)}


def _entry_points() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=ENTRY_POINTS)
