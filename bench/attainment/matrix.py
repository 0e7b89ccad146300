"""All runs of a table: each system in each scene, and the over-provisioning that does as well as ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from bench.attainment.running import run
from bench.attainment.scenes import Scene
from bench.attainment.scoring import Row, scored
from bench.attainment.settings import Setting
from bench.attainment.systems import MULTIPLES, System
from tiermesh.errors import Infeasible

WITHIN = 0.002
"""Of the attainment that over-provisioning is to reach."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effort:
    """How long each run is, in simulated seconds, and its seed."""

    seconds: float
    seed: int


def rows(
    setting: Setting, scenes: Sequence[Scene], systems: Sequence[System], effort: Effort
) -> Iterator[Row]:
    """The rows, in the order of scenes and systems; a system without a plan has none."""
    for scene in scenes:
        ours: float | None = None
        for system in systems:
            row = _row(setting, scene, system, effort, ours)
            if row is not None:
                ours = row.attainment if system.name == "ours" else ours
                yield row


def _row(
    setting: Setting, scene: Scene, system: System, effort: Effort, ours: float | None
) -> Row | None:
    if system.scale is not None:
        return _one(setting, scene, system, effort, system.scale)
    found: Row | None = None
    for scale in MULTIPLES:
        row = _one(setting, scene, system, effort, scale)
        if row is not None and (found is None or row.attainment > found.attainment):
            found = row
        if found is not None and found.attainment >= (1.0 if ours is None else ours) - WITHIN:
            break
    return found


def _one(
    setting: Setting, scene: Scene, system: System, effort: Effort, scale: float
) -> Row | None:
    try:
        made = run(setting, scene, system, seconds=effort.seconds, seed=effort.seed, scale=scale)
    except Infeasible:
        return None
    return scored(made, setting.name, effort.seed)
