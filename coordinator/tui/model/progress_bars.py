"""What is being done, as bars: profiling, pushing, fetching."""

from __future__ import annotations

from coordinator.tui.model import text as t
from coordinator.tui.model.text import Line, Run
from coordinator.tui.model.view import View


def work_lines(view: View, cells: int, count: int) -> list[Line]:
    """The newest pieces of work that are not done yet, a bar each."""
    if not view.doing:
        return []
    left = [step for step in view.progress.values() if step.done < 1]
    bar_cells = max(min(cells // 4, 30), 8)
    lines: list[Line] = []
    for step in left[-count:]:
        line = (
            Run(t.fit(t.safe(step.device), 12) + " ", "name"),
            Run(t.fit(t.safe(step.subject), 28) + " "),
            Run(t.bar(step.done, bar_cells), "accent"),
            Run(f" {t.safe(step.doing)}", "dim"),
        )
        lines.append(t.clip(line, cells))
    return lines
