"""Plan: change what is asked, see what that costs at once, and apply it from here."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal

from coordinator.tui.canvas import Table
from coordinator.tui.model import text as t
from coordinator.tui.model.candidate import Asking
from coordinator.tui.model.plan import (
    Form,
    RowKind,
    Tab,
    against_running,
    candidate_lines,
    difference_lines,
    explanation_lines,
    frontier_lines,
    replica_lines,
    running_lines,
)
from coordinator.tui.model.slo_fields import FIELDS, checked, parsed
from coordinator.tui.model.text import Line, Lines, Run
from coordinator.tui.model.view import View
from coordinator.tui.screens.base import Command, MeshScreen
from coordinator.tui.screens.confirm import Confirm, Prompt
from coordinator.tui.solving import workflow_digest
from tiermesh.errors import TiermeshError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tiermesh.documents.plan import Plan
    from tiermesh.documents.workflow import Slo

WIDE: Final = 100
SOLVE_AFTER_S: Final = 0.3
"""So long after the last change the search begins, so that several changes are one."""


class PlanScreen(MeshScreen):
    """The form at the left, the answer at the right."""

    MODE = "plan"
    CSS = """
    #form { width: 46; padding: 0 1; background: $surface; }
    #form.narrow { width: 34; }
    #answer { width: 1fr; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter,space",
            "edit",
            "Change",
            key_display="⏎",
            tooltip="change an ask, or bar a device",
        ),
        Binding("p", "solve", "Plan", tooltip="plan again with SLO now"),
        Binding("a", "apply", "Apply", tooltip="apply the plan, after a question"),
        Binding("d", "tab('changes')", "Diff", tooltip="what an apply would change"),
        Binding("e", "explain", "Why", tooltip="why each replica, and what binds"),
        Binding("f", "frontier", "Frontier", tooltip="what other accuracies cost"),
        Binding("r", "reset", "Reset", show=False, tooltip="ask again what the workflow asks"),
        Binding("J,K", "scroll(1)", "Scroll", show=False, tooltip="scroll the answer"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.asking: Asking | None = None
        self.tab = Tab.CHANGES
        self.form: Form | None = None

    def body(self) -> ComposeResult:
        """Form and answer."""
        with Horizontal():
            yield Table(id="form")
            yield Table(id="answer")

    def on_mount(self) -> None:
        """Move in the form at once."""
        form = self.query_one("#form", Table)
        form.focus()
        form.marked = 1

    def show(self, view: View) -> None:
        """Paint both."""
        form = self.query_one("#form", Table)
        narrow = self.size.width < WIDE
        form.set_class(narrow, "narrow")
        slo, asking = self._slo(view), self._asking(view)
        answer = self.query_one("#answer", Table)
        if slo is None or asking is None:
            form.show(Lines([(Run("no workflow was planned yet", "dim"),)]))
            answer.show(
                Lines([(Run("plan one: ", "dim"), Run("coordinator plan WORKFLOW.yaml", "accent"))])
            )
            return
        self.form = Form(view, slo, asking, 30 if narrow else 42)
        form.show(self.form)
        cells = max(self.size.width - (34 if narrow else 46) - 3, 30)
        answer.show(Lines(self._answer(view, self._changed_slo(view, slo), cells)))

    def _answer(self, view: View, slo: Slo | None, cells: int) -> list[Line]:
        candidate = self.mesh_app.candidate
        plan = self._plan(view)
        lines: list[Line] = []
        if candidate is not None:
            lines = candidate_lines(view, candidate, slo, cells)
        elif plan is not None:
            lines = running_lines(view, plan, slo, cells)
        lines += [(), self._tabs()]
        match self.tab:
            case Tab.CHANGES:
                if candidate is not None:
                    lines += difference_lines(
                        against_running(view, candidate.plan), candidate.plan, cells
                    )
                elif plan is not None:
                    lines += replica_lines(plan, cells)
            case Tab.REASONS:
                found = self.mesh_app.explained
                matching = found is not None and plan is not None and found.plan == plan.digest
                lines += explanation_lines(found.explanation if found and matching else None, cells)
            case Tab.FRONTIER:
                lines += frontier_lines(candidate.frontier if candidate else (), plan, cells)
        return lines

    def _tabs(self) -> Line:
        keys = {Tab.CHANGES: "d", Tab.REASONS: "e", Tab.FRONTIER: "f"}
        titles = {Tab.CHANGES: "changes", Tab.REASONS: "reasons", Tab.FRONTIER: "frontier"}
        runs: list[Run] = []
        for tab in Tab:
            runs += [
                Run(f" {keys[tab]} {titles[tab]} ", "tab-on" if tab is self.tab else "tab"),
                Run(" "),
            ]
        return tuple(runs)

    # --- what is asked -------------------------------------------------------------------------------------------

    def _slo(self, view: View) -> Slo | None:
        name = view.workflow
        source = view.fleet.workflows.get(workflow_digest(view.fleet, name) or "") if name else None
        return parsed(source.text).slo if source is not None else None

    def _changed_slo(self, view: View, slo: Slo) -> Slo | None:
        """The asks with their changes, for the gauges."""
        from coordinator.tui.model.slo_fields import changed_text

        name = view.workflow
        source = view.fleet.workflows.get(workflow_digest(view.fleet, name) or "") if name else None
        asking = self.asking
        if source is None or asking is None:
            return slo
        try:
            return parsed(changed_text(source.text, asking.changes)).slo
        except TiermeshError:
            return slo

    def _asking(self, view: View) -> Asking | None:
        name = view.workflow
        if name is None:
            return None
        if self.asking is None or self.asking.workflow != name:
            number = self.asking.number + 1 if self.asking is not None else 1
            self.asking = Asking(number=number, workflow=name)
        return self.asking

    def _plan(self, view: View) -> Plan | None:
        """The plan that is looked at: the candidate, else the one that runs."""
        candidate = self.mesh_app.candidate
        if candidate is not None and candidate.plan is not None:
            return candidate.plan
        running = view.fleet.running.get(view.workflow or "")
        record = view.fleet.plans.get(running.plan) if running is not None else None
        return record.plan if record is not None else None

    def document(self, view: View) -> Any:
        """The plan that is looked at."""
        plan = self._plan(view)
        return msgspec.to_builtins(plan, enc_hook=float) if plan is not None else None

    def commands(self) -> Iterable[Command]:
        """What the keys do."""
        yield "Replan", "With SLO now (key p)", self.action_solve
        yield "Apply the plan", "After a question (key a)", self.action_apply
        yield "Explain the plan", "Why each replica, and what binds (key e)", self.action_explain
        yield "Frontier", "What other accuracies cost (key f)", self.action_frontier
        yield "Reset", "Ask what the workflow asks (key r)", self.action_reset

    # --- keys ----------------------------------------------------------------------------------------------------

    @on(Table.Chosen, "#form")
    def _chosen(self) -> None:
        self.action_edit()

    def action_edit(self) -> None:
        """Change the ask under the cursor, or bar or allow its device or tier."""
        form = self.query_one("#form", Table)
        row = self.form.rows[form.marked or 0] if self.form is not None else None
        asking = self.asking
        if row is None or asking is None:
            return
        match row.kind:
            case RowKind.ASK:
                title, _, example = FIELDS[row.key]
                prompt = Prompt(title, row.now, f"{example}; empty: not set")
                self.mesh_app.push_screen(prompt, lambda value: self._edited(row.key, value))
            case RowKind.TIER:
                self._ask(replace(asking, tiers=asking.tiers ^ {row.key}))
            case RowKind.DEVICE:
                self._ask(replace(asking, devices=asking.devices ^ {row.key}))
            case RowKind.TITLE:
                pass

    def _edited(self, key: str, value: str | None) -> None:
        if value is None or self.asking is None:
            return
        try:
            kept = checked(key, value)
        except TiermeshError as error:
            self.mesh_app.tell(str(error), severity="error", title="not changed")
            return
        self._ask(replace(self.asking, changes={**self.asking.changes, key: kept}))

    def _ask(self, asking: Asking) -> None:
        self.asking = replace(asking, number=asking.number + 1)
        self.tab = Tab.CHANGES
        self.repaint()
        self.set_timer(SOLVE_AFTER_S, partial(self._solve_if, self.asking.number))

    def _solve_if(self, number: int) -> None:
        """Begin unless more was changed meanwhile."""
        if self.asking is not None and self.asking.number == number:
            app = self.mesh_app
            app.work("plan", app.session.solve(self.asking), group="solve")

    def action_solve(self) -> None:
        """Plan again now."""
        asking = self._asking(self.view)
        if asking is not None:
            self.asking = replace(asking, number=asking.number + 1)
            self._solve_if(self.asking.number)

    def action_reset(self) -> None:
        """Forget the changes."""
        if self.asking is not None:
            self._ask(Asking(number=self.asking.number, workflow=self.asking.workflow))

    def action_tab(self, tab: str) -> None:
        """Show another part."""
        self.tab = Tab(tab)
        self.repaint()

    def action_explain(self) -> None:
        """Have the plan explained."""
        self.tab = Tab.REASONS
        plan, app = self._plan(self.view), self.mesh_app
        if plan is not None and (app.explained is None or app.explained.plan != plan.digest):
            app.work("explain", app.session.explain(plan), group="explain")
        self.repaint()

    def action_frontier(self) -> None:
        """Have the frontier computed."""
        self.tab = Tab.FRONTIER
        candidate, app = self.mesh_app.candidate, self.mesh_app
        if candidate is None:
            self.action_solve()
            asking = self.asking
        else:
            asking = candidate.asking
        if asking is not None and (candidate is None or not candidate.frontier):
            app.work("frontier", app.session.frontier(asking), group="frontier")
        self.repaint()

    def action_scroll(self, by: int) -> None:
        """Scroll the answer."""
        self.query_one("#answer", Table).scroll_relative(y=by * 5, animate=False)

    def action_apply(self) -> None:
        """Ask whether to, showing what would change."""
        candidate = self.mesh_app.candidate
        if candidate is None or candidate.plan is None:
            self.mesh_app.tell("there is no plan to apply; press p to plan", severity="warning")
            return
        plan = candidate.plan
        told = difference_lines(against_running(self.view, plan), plan, 68)
        cost: Line = (
            Run(f"{plan.cost.total_per_hour:.4g} USD/h, plan {t.safe(plan.digest[7:19])}", "dim"),
        )
        question = Confirm(f"Apply this plan of {t.safe(plan.workflow)}?", [*told[:16], (), cost])
        self.mesh_app.push_screen(question, lambda yes: self._apply(plan, yes))

    def _apply(self, plan: Plan, yes: bool | None) -> None:
        if yes:
            app = self.mesh_app
            app.work(f"apply {plan.workflow}", app.session.apply(plan))
