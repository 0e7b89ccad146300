"""What a run may have ended like, judged from the record of its faults. Pure.

An error is right only where no carrier could be reached for long enough until the deadline of its request; generations
are right when each follows the one before, and when there are no more of them than losses and returns ask for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from tests.mesh.faults import Outage

BACK_S: Final = 10.0
"""How long a device must be in reach to count: its agent and worker start anew, and a plan is made and rolled out."""


@dataclass(frozen=True)
class Ending:
    """An error of a request: what it says, when it was accepted and when its deadline was (Unix seconds)."""

    error: str
    accepted_at: float
    deadline: float


@dataclass(frozen=True)
class Rollout:
    """A generation that was rolled out, and when that began and, where it came to serve, was done."""

    generation: int
    at: float
    committed_at: float | None


def undue(
    endings: Iterable[Ending], outages: Sequence[Outage], carriers: Collection[str]
) -> list[Ending]:
    """The errors of requests that could have been served: a carrier was in reach for `BACK_S` before the deadline."""
    return [
        ending
        for ending in endings
        if any(
            longest_reach_s(carrier, outages, ending.accepted_at, ending.deadline) > BACK_S
            for carrier in carriers
        )
    ]


def longest_reach_s(device: str, outages: Iterable[Outage], since: float, until: float) -> float:
    """The longest time within [since, until] for which a device could be reached without a break."""
    longest, free_from = 0.0, since
    for outage in sorted((o for o in outages if o.device == device), key=lambda o: o.since):
        longest = max(longest, min(outage.since, until) - free_from)
        free_from = max(free_from, outage.until)
    return max(longest, until - free_from)


def disorder(rollouts: Sequence[Rollout]) -> list[str]:
    """What is wrong with the order of generations, in words."""
    numbers = [r.generation for r in rollouts]
    wrong = [
        f"generation {after} came after {before}"
        for before, after in pairwise(numbers)
        if after <= before
    ]
    ends = [r for r in rollouts if r.committed_at is not None]
    wrong += [
        f"generation {after.generation} began before {before.generation} was done"
        for before, after in pairwise(ends)
        if after.at < (before.committed_at or 0.0)
    ]
    return wrong


def most_rollouts(outages: Sequence[Outage], given_up_after_s: float) -> int:
    """As many generations as a mesh needs that moves once for each loss and once for each return, at most."""
    lost = [o for o in outages if o.until - o.since >= given_up_after_s]
    return 1 + 2 * len(lost)
