"""The one exception tree of the contract.

TiermeshError
├── InvalidDocument      a workflow, profile, problem, plan or assignment breaks its schema
├── DigestMismatch       bytes, or a plan's inputs, are not the ones that were named
├── StaleGeneration      a plan older than the one that runs
├── Unreachable          a peer does not answer
├── TakenOver            another coordinator, or a newer connection, has taken this one's place
├── Unsupported          this device cannot run what it was asked to run
├── StorageFull          no room for what should be kept
├── LimitExceeded        something from outside is larger than its named limit
└── Infeasible           no plan meets every ask

Every error says what failed, why, and what to do about it, and carries its fields for `--json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class TiermeshError(Exception):
    """What failed (`what`), why (`why`) and what to do (`fix`)."""

    kind: str = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, why: str = "", fix: str = "", **fields: object) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix
        self.fields = fields

    def __str__(self) -> str:
        return ". ".join(part.rstrip(".") for part in (self.what, self.why, self.fix) if part)

    def to_dict(self) -> dict[str, object]:
        """The error as the JSON object that `--json` prints."""
        return {
            "kind": self.kind,
            "what": self.what,
            "why": self.why,
            "fix": self.fix,
            **self.fields,
        }


class InvalidDocument(TiermeshError):
    """A document breaks its schema; `path` names the field."""

    kind = "invalid-document"
    exit_code = 2


class DigestMismatch(TiermeshError):
    """Bytes are not those that the digest names, or a plan's inputs have moved on."""

    kind = "digest-mismatch"


class StaleGeneration(TiermeshError):
    """A generation older than, or equal to, the one that is already there."""

    kind = "stale-generation"


class Unreachable(TiermeshError):
    """A device or an address does not answer."""

    kind = "unreachable"


class TakenOver(TiermeshError):
    """Another coordinator commands the device now, or a newer connection is in use."""

    kind = "taken-over"


class Unsupported(TiermeshError):
    """The device lacks the runtime, module or memory that is needed."""

    kind = "unsupported"


class StorageFull(TiermeshError):
    """The store has no room, on disk or within its limit."""

    kind = "storage-full"


class LimitExceeded(TiermeshError):
    """A size, count or rate from outside is above its limit in `tiermesh.limits`."""

    kind = "limit-exceeded"


class Infeasible(TiermeshError):
    """No plan meets all that is asked; the fields name the asks that clash."""

    kind = "infeasible"
    exit_code = 3


def error_of(fields: Mapping[str, Any]) -> TiermeshError:
    """An error from its `to_dict` form; one that is not of this tree is a TiermeshError of the same kind."""
    rest = {k: v for k, v in fields.items() if k not in ("kind", "what", "why", "fix")}
    kind = str(fields.get("kind", TiermeshError.kind))
    error = _KINDS.get(kind, TiermeshError)(
        str(fields.get("what", "failed")),
        why=str(fields.get("why", "")),
        fix=str(fields.get("fix", "")),
        **rest,
    )
    error.kind = kind
    return error


_KINDS = {kind.kind: kind for kind in TiermeshError.__subclasses__()}
"""Taken when this module has been read: the kinds of the contract, and no others."""
