"""Where the time of a recovery goes, from the events of the journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from coordinator.fleet import events


@dataclass(frozen=True)
class Stages:
    """Seconds of each stage, one after the other, from the kill until every device serves the other plan."""

    give_up_s: float
    """Until the device was given up."""
    decide_s: float
    """Until planning again began."""
    plan_s: float
    """Until another plan was there: its problem, the search, and whether it is worth it."""
    solve_s: float
    """Of that, what the solver reports."""
    begin_s: float
    """Until its rollout began."""
    push_s: float
    """Until each device had the artifacts."""
    prepare_s: float
    """Until each device had loaded, warmed and tested its replicas."""
    switch_s: float
    """Until each device had switched."""


def stages(killed: float, happened: Sequence[events.Event]) -> Stages:
    """The stages of a recovery, of what the journal has from a kill (Unix seconds) on."""
    failed = _first(happened, events.DeviceFailed)
    began = [e.at for e in happened if isinstance(e, events.ReplanStarted)]
    rollout = [e for e in happened if isinstance(e, events.RolloutStarted)][-1]
    plan = [e for e in happened if isinstance(e, events.PlanMade)][-1:]
    made = plan[0].at if plan and began and plan[0].at >= began[-1] else rollout.at
    solved = plan[0].plan.solver.seconds if plan and made != rollout.at else 0.0
    began_at = began[-1] if began else failed
    times = [killed, failed, began_at, made, rollout.at]
    times += [
        max(e.at for e in happened if isinstance(e, kind) and e.generation == rollout.generation)
        for kind in (events.ArtifactsPushed, events.RolloutPrepared, events.RolloutCommitted)
    ]
    give_up, decide, planned, begin, push, prepare, switch = (b - a for a, b in pairwise(times))
    return Stages(give_up, decide, planned, solved, begin, push, prepare, switch)


def _first(happened: Sequence[events.Event], kind: type[events.Happening]) -> float:
    return next(e.at for e in happened if isinstance(e, kind))
