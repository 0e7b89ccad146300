"""A variant as it is offered to devices: which artifacts, for which runtime, with which stage code."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from tiermesh import ids, limits
from tiermesh.documents.reading import Document, to_plain
from tiermesh.documents.workflow import Name, Options


class Artifact(Document, frozen=True, kw_only=True):
    """A file, named by its content."""

    digest: Annotated[str, Meta(pattern=ids.DIGEST_PATTERN)]
    size_bytes: Annotated[int, Meta(ge=0, le=limits.ARTIFACT_BYTES)]


class Bundle(Document, frozen=True, kw_only=True):
    """Stage code: a zip whose `entry` is ``module:Class``; it needs `requires`, importable Python modules.

    The class is made with `Class(files, options)`: files maps file names to paths, options are the
    workflow's. What it must offer depends on the kind of its stage; see `agent.model_host.stage_code`.
    """

    artifact: Artifact
    entry: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")]
    requires: list[str] = []


class Variant(Document, frozen=True, kw_only=True):
    """One artifact of a model stage. `files` are its artifacts by file name; `model_file` is the one to load.

    A runtime that needs no file has none to load. `options` are for the stage code, `settings` for the runtime, which
    has its own schema for them (a provider, a limit of memory).
    """

    model: Name
    name: Name
    runtime: Name
    precision: str
    model_file: str | None = None
    files: dict[str, Artifact]
    bundle: Bundle
    options: Options = {}
    # Not written where there are none, so that variants without any keep their digests, and so their profiles.
    settings: Options | UnsetType = UNSET

    @property
    def digest(self) -> str:
        """Changes with anything that could change its speed or its answers."""
        return ids.digest_value(to_plain(self))

    @property
    def artifacts(self) -> list[Artifact]:
        """All that a device must have to run it."""
        return [*self.files.values(), self.bundle.artifact]
