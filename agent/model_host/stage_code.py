"""Stage code: what people write for a stage, and how a device loads it.

A bundle is a zip of Python modules; its entry ``module:Class`` names the class for one stage. A
device makes one object of it per replica, `Class(files, options)`:

* `files`: paths by file name. For a model, the variant's artifacts (weights, labels ...).
* `options`: what the workflow says for this stage.

Which methods the class needs depends on the kind of its stage: see the protocols below; it need not
inherit from them. A payload is a dict of named values; tensors in it arrive as read-only NumPy
arrays, and NumPy arrays in what is returned leave as tensors. Calls come from one thread, one at a
time. An exception ends that one request in an error. Modules of the bundle import each other
relatively (``from . import geometry``), so that two versions of a bundle can be loaded side by
side. What is not in the standard library or in the bundle is named in `requires`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from agent.errors import StageCodeFailed
from agent.model_host import process
from tiermesh.documents.variant import Bundle
from tiermesh.errors import Unsupported
from tiermesh.frames import Payload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]


class ModelCode(Protocol):
    """Pre- and post-processing around a model."""

    def items(self, payload: Payload) -> Sequence[Arrays]:
        """Per item that the model shall see, the model's inputs by name, without batch axis.

        A photo with five lines of text is five items. Items whose inputs have equal shapes and
        types share batches, also across requests, so few different shapes are fast ones. No items
        is allowed.
        """
        ...

    def result(self, payload: Payload, outputs: Sequence[Arrays]) -> Payload:
        """The payload for the next stages. `outputs` are the model's, one per item, in order."""
        ...

    def samples(self) -> Sequence[Payload]:
        """Typical payloads, a few: the device warms up, measures and tests itself with them."""
        ...

    def check(self, index: int, result: Payload) -> str | None:
        """None where `result` is right for `samples()[index]`, or what is wrong, for people."""
        ...


class MapCode(Protocol):
    """One payload in, one out."""

    def apply(self, payload: Payload) -> Payload:
        """The payload for the next stages."""
        ...


class FilterCode(Protocol):
    """Decides which requests go on."""

    def keep(self, payload: Payload) -> bool:
        """False ends the request with the outcome `filtered`."""
        ...


class JoinCode(Protocol):
    """Makes one payload of those that several stages sent for one request."""

    def join(self, payloads: Mapping[str, Payload]) -> Payload:
        """`payloads` by the name of the stage that each came from; all of them are there."""
        ...


class AggregateCode(Protocol):
    """Keeps state per key: all requests with one key come here, once, in the order of their source.

    Code that also has `dump(state) -> Payload` and `load(payload) -> state` keeps its state on the device's disk: it
    goes on after a kill or a reboot as if nothing had happened. Without them the state is in memory: after a kill it
    begins anew, with the requests that no sink has confirmed.
    """

    def start(self, key: str) -> Any:
        """The state before the first request with this key."""
        ...

    def fold(self, state: Any, payload: Payload) -> tuple[Any, Payload]:
        """The state after `payload`, and the payload for the next stages."""
        ...


class SinkCode(Protocol):
    """Takes results out of the mesh."""

    def deliver(self, request_id: str, payload: Payload) -> None:
        """Called once per request, and again if the device fails meanwhile: ids tell."""
        ...


METHODS: Final[Mapping[str, tuple[str, ...]]] = {
    "model": ("items", "result", "samples", "check"),
    "map": ("apply",),
    "filter": ("keep",),
    "join": ("join",),
    "aggregate": ("start", "fold"),
    "sink": ("deliver",),
}


def load(
    bundle: Bundle, folder: Path, files: Mapping[str, Path], options: Mapping[str, Any], kind: str
) -> Any:
    """The stage code object for one stage of `kind`, from the unpacked bundle in `folder`.

    Raises:
        Unsupported: a Python module that the bundle requires is not installed here; `missing` lists
        them.
        StageCodeFailed: the entry is not there, lacks a method, or its code raises.
    """
    process.bound_decoders()
    check_requires(bundle)
    module_name, _, class_name = bundle.entry.partition(":")
    try:
        module = importlib.import_module(f"{_package(bundle, folder)}.{module_name}")
    except Exception as error:
        raise StageCodeFailed.by(error, f"the stage code {bundle.entry} does not import") from error
    made = getattr(module, class_name, None)
    if not isinstance(made, type):
        raise StageCodeFailed(
            f"the stage code {bundle.entry} is not there",
            why=f"no class of that name in {module_name}.py",
        )
    _check_methods(made, bundle.entry, kind)
    try:
        return made(dict(files), dict(options))
    except Exception as error:
        raise StageCodeFailed.by(error, f"the stage code {bundle.entry} does not start") from error


def can_be_kept(code: object) -> bool:
    """Whether an aggregate's code can say its state."""
    return all(callable(getattr(code, method, None)) for method in ("dump", "load"))


def check_requires(bundle: Bundle) -> None:
    """Unsupported unless all that the bundle requires is installed; nothing is imported."""
    missing = [name for name in bundle.requires if not _is_installed(name)]
    if missing:
        raise Unsupported(
            f"the stage code {bundle.entry} cannot run on this device",
            why=f"modules not installed on this device: {', '.join(missing)}",
            fix="Install them on the device and restart the agent",
            missing=missing,
        )


def _package(bundle: Bundle, folder: Path) -> str:
    """Make `folder` importable as a package whose name holds the digest of its content."""
    name = "_tiermesh_bundle_" + bundle.artifact.digest.removeprefix("sha256:")[:24]
    if name not in sys.modules:
        package = types.ModuleType(name, "A bundle of stage code.")
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    return name


def _check_methods(made: type, entry: str, kind: str) -> None:
    missing = [name for name in METHODS[kind] if not callable(getattr(made, name, None))]
    if missing:
        raise StageCodeFailed(
            f"the stage code {entry} does not fit a stage of the kind {kind}",
            why=f"it has no method {', '.join(missing)}",
            fix="See the protocols in agent.model_host.stage_code",
        )


def _is_installed(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
