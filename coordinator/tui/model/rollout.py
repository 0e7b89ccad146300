"""The newest rollout of a workflow: how far each device is, and what holds it up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.fleet.lifecycle import Phase, RolloutOutcome
from coordinator.tui.model import text as t
from coordinator.tui.model.journal import name_of
from coordinator.tui.model.text import Line, Run
from coordinator.tui.model.view import View

if TYPE_CHECKING:
    from coordinator.fleet.state import Rollout

STEPS: Final = ("push", "load", "warm", "self-test", "switch")
STEP_CELLS: Final = 10
_REACHED: Final = {
    Phase.PENDING: 0,
    Phase.PUSHED: 1,
    Phase.PREPARED: 4,
    Phase.COMMITTED: 5,
}
_OUTCOMES: Final = {
    RolloutOutcome.COMMITTED: ("✓", "good", "live"),
    RolloutOutcome.ABORTED: (
        "✗",
        "bad",
        "rollout aborted; no device was changed",
    ),
    RolloutOutcome.BROKEN: ("✗", "bad", "failed while devices switched"),
    RolloutOutcome.RESTORED: ("▲", "warn", "what ran before runs again"),
}


def rollout_lines(view: View, workflow: str, cells: int) -> list[Line]:
    """All of it, in lines of `cells` cells."""
    rollout = view.fleet.rollouts.get(workflow)
    if rollout is None:
        return [
            (),
            (
                Run("  nothing was rolled out yet; apply a plan from screen ", "dim"),
                Run("3 Plan", "key"),
            ),
        ]
    lines = [_title(rollout, cells), *_what(view, rollout, cells), (), _head(cells)]
    for device in sorted(rollout.phases, key=lambda d: name_of(view, d)):
        lines.append(_device(view, rollout, device, cells))
        why = rollout.failures.get(device)
        if why:
            lines += [(Run("    " + p, "bad"),) for p in t.wrap(t.safe(why), cells - 4)]
    return lines


def _title(rollout: Rollout, cells: int) -> Line:
    if rollout.outcome is not None:
        sign, role, said = _OUTCOMES[rollout.outcome]
    elif rollout.giving_up:
        sign, role, said = "⟲", "warn", "being undone"
    elif rollout.held:
        sign, role, said = "‖", "warn", "paused: no device begins another step"
    else:
        sign, role, said = "⟳", "warn", "under way"
    left = (
        Run(f"{t.safe(rollout.workflow)} generation {rollout.generation}", "title"),
        Run(f"   {sign} {said}", f"{role} bold"),
    )
    return t.spread(left, (Run(f"{rollout.purpose} · run {t.safe(rollout.run)}", "dim"),), cells)


def _what(view: View, rollout: Rollout, cells: int) -> list[Line]:
    members = rollout.members
    done = sum(phase is Phase.COMMITTED for phase in members.values())
    share = done / len(members) if members else 1.0
    line = (
        Run(f"{done} of {len(members)} devices serve it  ", "dim"),
        Run(t.bar(share, max(min(cells - 40, 40), 10)), "good" if share == 1 else "accent"),
    )
    record = view.fleet.plans.get(rollout.plan)
    cost = f"  {t.usd(record.plan.cost.total_per_hour)} USD/h" if record is not None else ""
    lines: list[Line] = [(*line, Run(cost, "dim"))]
    if rollout.cancelled:
        lines.append((Run(f"given up: {t.safe(rollout.cancelled)}", "warn"),))
    return lines


def _head(cells: int) -> Line:
    titles = "".join(f"{step:<{STEP_CELLS}}" for step in STEPS)
    return (Run(t.fit(f"{'device':<16}{titles}{'now'}", cells), "head"),)


def _device(view: View, rollout: Rollout, device: str, cells: int) -> Line:
    phase = rollout.phases[device]
    name = Run(t.fit(name_of(view, device), 15) + " ", "name")
    if phase in (Phase.LEAVING, Phase.STOPPED):
        told = (
            "serves the last plan until the others have switched"
            if phase is Phase.LEAVING
            else "drained and stopped"
        )
        return t.clip((name, Run(f"{'◒' if phase is Phase.LEAVING else '✓'} {told}", "dim")), cells)
    if phase in (Phase.FAILED, Phase.ABORTED):
        sign, role = ("✗", "bad") if phase is Phase.FAILED else ("⟲", "warn")
        return (name, Run(f"{sign} {phase}", f"{role} bold"))
    return t.clip((name, *_progress(view, rollout, device, phase)), cells)


def _progress(view: View, rollout: Rollout, device: str, phase: Phase) -> list[Run]:
    """A mark per step: done, under way with a bar, or to come."""
    reached = _REACHED[phase]
    known = view.progress.get((_plain_name(view, device), "rollout"))
    live = known if known is not None and rollout.outcome is None else None
    at, share, doing = reached, 0.0, ""
    if live is not None:
        doing = live.doing
        word = doing.split(" ")[0]
        if word in STEPS:
            at, share = STEPS.index(word), live.done
    runs: list[Run] = []
    for i, _ in enumerate(STEPS):
        if i < max(reached, at):
            runs.append(Run(f"{'✓ done':<{STEP_CELLS}}", "good"))
        elif i == at and rollout.outcome is None and doing:
            runs.append(Run(f"{t.bar(share, STEP_CELLS - 2)}  ", "accent"))
        else:
            runs.append(Run(f"{'·':<{STEP_CELLS}}", "dim"))
    return [*runs, Run(t.safe(doing if live is not None and live.done < 1 else str(phase)), "dim")]


def _plain_name(view: View, device: str) -> str:
    known = view.fleet.devices.get(device)
    return known.name if known is not None else device
