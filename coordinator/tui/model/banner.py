"""One line when something is wrong, or has just been put right: what failed, and what answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.fleet.lifecycle import DeviceState, RolloutOutcome
from coordinator.tui.model import text as t
from coordinator.tui.model.text import Line, Run
from coordinator.tui.model.view import View

if TYPE_CHECKING:
    from coordinator.fleet.state import ReplanRecord

SIGNS: Final = {
    "met": ("✓", "good"),
    "at-risk": ("▲", "warn"),
    "missed": ("✗", "bad bold"),
}
"""The sign and the role of a verdict on the SLO."""
SHOWN_S: Final = 60.0
"""How long the answer to a failure stays to be read."""


def banner(view: View, cells: int) -> Line | None:
    """What a user must know now about the workflow that is shown; None when all is well."""
    workflow = view.workflow
    if workflow is None:
        return None
    replan = view.fleet.replans.get(workflow)
    rollout = view.fleet.rollouts.get(workflow)
    if rollout is not None and rollout.outcome is None:
        role, text = "banner-warn", f"⟳ generation {rollout.generation} is being rolled out"
        if replan is not None and replan.outcome is None:
            text = f"⟳ {replan.reason} → {text.removeprefix('⟳ ')}: {replan.why}"
    elif replan is not None and replan.outcome is None:
        role, text = "banner-warn", f"⟳ {replan.reason}: {replan.why} → planning again"
    elif replan is not None and 0 <= view.now - replan.at < SHOWN_S:
        role, text = _ended(replan, verdict_of(view, workflow))
    elif lost := _lost(view, workflow):
        role, text = "banner-bad", lost
    elif rollout is not None and rollout.outcome in (RolloutOutcome.ABORTED, RolloutOutcome.BROKEN):
        why = "; ".join(f"{_name(view, d)}: {w}" for d, w in rollout.failures.items())
        role, text = (
            "banner-bad",
            f"✗ generation {rollout.generation} {rollout.outcome}: {why or rollout.cancelled}",
        )
    elif judged := _judged(view, workflow):
        role, text = judged
    else:
        return None
    return (Run(t.fit(f" {t.safe(text)}", cells), role),)


def verdict_of(view: View, workflow: str) -> str | None:
    """Whether a workflow keeps its SLO: met, at-risk or missed; None where nothing is known of it yet."""
    status = view.status(workflow)
    word = status.attainment.verdict.word if status is not None else "no-data"
    return str(word) if word in SIGNS else None


def _judged(view: View, workflow: str) -> tuple[str, str] | None:
    """An SLO that is missed, or at risk, and why."""
    status, word = view.status(workflow), verdict_of(view, workflow)
    if status is None or word not in ("missed", "at-risk"):
        return None
    role = "banner-bad" if word == "missed" else "banner-warn"
    judged = view.fleet.judged.get(workflow)
    causes = judged.causes if judged is not None and judged.verdict == word else []
    told = "; ".join([*causes, status.attainment.verdict.why])
    return role, f"{SIGNS[word][0]} SLO {word}: {told}"


def _lost(view: View, workflow: str) -> str:
    """The devices of the running plan that do not answer."""
    running = view.fleet.running.get(workflow)
    devices = (
        [view.fleet.devices[d] for d in running.devices if d in view.fleet.devices]
        if running
        else []
    )
    bad = [d for d in devices if d.state in (DeviceState.FAILED, DeviceState.SUSPECT)]
    if not bad:
        return ""
    told = "; ".join(f"{d.name} {d.state}: {d.why}" for d in bad)
    return f"✗ {told}"


def _ended(replan: ReplanRecord, verdict: str | None) -> tuple[str, str]:
    good = replan.outcome in ("replaced", "kept") and verdict != "missed"
    sign = "✓" if good else "▲"
    outcome = {"replaced": f"generation {replan.generation} serves"}.get(
        str(replan.outcome), str(replan.outcome)
    )
    return (
        "banner-good" if good else "banner-warn",
        f"{sign} {replan.reason} → replan → {outcome}: {replan.text or replan.why}",
    )


def _name(view: View, device: str) -> str:
    known = view.fleet.devices.get(device)
    return known.name if known is not None else device
