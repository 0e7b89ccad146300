"""How long each stage of a plan takes for a request at least: what devices end hopeless requests by. Pure."""

from __future__ import annotations

from typing import Final

from tiermesh.documents.plan import Plan

_ALIKE: Final = 1e-6
_SURE: Final = 0.5
"""A device may be quicker than its profile, but not by half."""


def least_seconds(plan: Plan) -> dict[str, float]:
    """Half of a stage's quickest batch, on whichever device, in seconds by stage.

    Stages of which a request may need nothing are left out: those that see fewer or more items than there are
    requests, and those whose batches were not measured on every device.
    """
    found: dict[str, float] = {}
    for stage in dict.fromkeys(r.stage for r in plan.replicas):
        replicas = [r for r in plan.replicas if r.stage == stage]
        rate = sum(r.items_per_second for r in replicas)
        asked = plan.predicted.throughput_rps
        times = [r.room.batches if r.room is not None else [] for r in replicas]
        if abs(rate - asked) <= _ALIKE * asked and all(times):
            found[stage] = _SURE * min(batch.mean for batches in times for batch in batches)
    return found
