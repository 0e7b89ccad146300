"""What `decide` asks for: small values, equal when asked for again, safe to carry out twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Describe:
    """Ask what is at a sighting's addresses."""

    sighting: str


@dataclass(frozen=True, slots=True)
class Measure:
    """Have a device measure a variant; `host` is the machine that it keeps busy."""

    device: str
    variant_digest: str
    host: str


@dataclass(frozen=True, slots=True)
class Push:
    """Send a device the artifacts that its assignment needs and that it lacks."""

    device: str
    workflow: str
    generation: int


@dataclass(frozen=True, slots=True)
class PrepareGeneration:
    """Have a device load and test its assignment beside what runs."""

    device: str
    workflow: str
    generation: int


@dataclass(frozen=True, slots=True)
class CommitGeneration:
    """Have a device switch to the prepared generation."""

    device: str
    workflow: str
    generation: int


@dataclass(frozen=True, slots=True)
class AbortGeneration:
    """Have a device forget the prepared generation."""

    device: str
    workflow: str
    generation: int


@dataclass(frozen=True, slots=True)
class StopWorkflow:
    """Have a device stop serving the workflow."""

    device: str
    workflow: str
    generation: int


RolloutInstruction: TypeAlias = (
    Push | PrepareGeneration | CommitGeneration | AbortGeneration | StopWorkflow
)
Instruction: TypeAlias = Describe | Measure | RolloutInstruction
