"""What every stage of a workflow says, whatever its kind."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeAlias

from msgspec import Meta

from tiermesh import ids
from tiermesh.documents.reading import Document, to_plain

Name: TypeAlias = Annotated[str, Meta(pattern=ids.NAME_PATTERN)]
Inputs: TypeAlias = str | Annotated[list[Name], Meta(min_length=1)]
"""Not `Name | ...`: with msgspec 0.21.1 a type with a pattern in a union with a list corrupts memory, which the garbage
collector falls over. A name that breaks the pattern is that of no stage, and is refused for that."""
Options: TypeAlias = dict[str, str | int | float | bool]


class Stage(Document, frozen=True, kw_only=True):
    """What every stage may say."""

    kind: ClassVar[str]
    tiers: list[Name] = []
    devices: list[Name] = []

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the stages that this one reads from, in the order written."""
        given = getattr(self, "source_stages", [])
        return (given,) if isinstance(given, str) else tuple(given)

    def mistake(self) -> tuple[str, str] | None:
        """A field that does not go with the others, and why; None where all do."""
        return None

    def to_digest(self) -> dict[str, Any]:
        """What counts in the digest of a workflow, as plain data."""
        return to_plain(self)
