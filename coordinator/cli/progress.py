"""Progress bars on standard error, one for each device and piece of work."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import replace

from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from coordinator.cli.output import Output
from coordinator.cli.text import clean
from coordinator.planning.options import Objective, Options
from coordinator.planning.watching import Standing
from coordinator.progress import Progress as Step
from coordinator.progress import Report

SHOWN_BARS = 24


@contextlib.contextmanager
def bars(output: Output) -> Generator[Report]:
    """A report that draws bars where standard error is a terminal, and writes a line per end elsewhere."""
    if not output.progress.is_terminal:
        yield lambda step: _line(output, step)
        return
    columns = (
        TextColumn("{task.fields[device]}"),
        TextColumn("{task.fields[subject]}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.description}"),
    )
    with Progress(*columns, console=output.progress, transient=False) as progress:
        yield _Bars(progress)


@contextlib.contextmanager
def searching(output: Output, options: Options) -> Generator[Options]:
    """The options with a watch: where standard error is a terminal, how long, what it costs so far, and the gap."""
    if not output.progress.is_terminal:
        yield options
        return
    columns = (SpinnerColumn(), TextColumn("planning"), TimeElapsedColumn())
    line = TextColumn("[dim]{task.description}")
    with Progress(*columns, line, console=output.progress, transient=True) as progress:
        task, known = progress.add_task("", total=None), Standing()

        def tell(news: Standing) -> None:
            nonlocal known
            known = known.after(news)
            progress.update(task, description=_known(known, options.objective))

        yield replace(options, watch=replace(options.watch, tell=tell))


def _known(standing: Standing, objective: Objective) -> str:
    """What a search knows, in words."""
    if standing.gap is not None and standing.objective is not None:
        cost = f"{standing.objective:.4g} USD/h, " if objective is Objective.COST else ""
        return f"{cost}gap {standing.gap:.2%}"
    if standing.bound is not None and objective is Objective.COST:
        return f"at least {standing.bound:.4g} USD/h"
    return ""


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def __call__(self, step: Step) -> None:
        key = (step.device, step.subject)
        if key not in self._tasks:
            self._make_room()
            self._tasks[key] = self._progress.add_task(
                "", total=1.0, device=clean(step.device), subject=clean(step.subject)
            )
        self._progress.update(self._tasks[key], completed=step.done, description=clean(step.doing))

    def _make_room(self) -> None:
        """A fleet has more devices than a screen has lines: what has ended goes first."""
        shown = [t for t in self._progress.tasks if t.visible]
        if len(shown) < min(SHOWN_BARS, self._progress.console.height - 1):
            return
        ended = next((t for t in shown if t.completed >= 1.0), shown[0])
        self._progress.update(ended.id, visible=False)


def _line(output: Output, step: Step) -> None:
    if step.done >= 1.0:
        output.progress.print(f"{clean(step.device)} {clean(step.subject)}: {clean(step.doing)}")
