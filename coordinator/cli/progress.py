"""Progress bars on standard error, one for each device and piece of work."""

from __future__ import annotations

import contextlib
import time
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

from coordinator.cli.output import CommandOutput
from coordinator.cli.text import clean
from coordinator.planning.options import Options, PlanObjective
from coordinator.planning.search_progress import SearchBounds
from coordinator.progress import Progress as Step
from coordinator.progress import Report, WorkCounts

SHOWN_BARS = 24


@contextlib.contextmanager
def bars(output: CommandOutput) -> Generator[Report]:
    """A report that draws bars where standard error is a terminal, and writes a line per end elsewhere.

    Where there are many pieces of work it says how many are done, and how long the others will take.
    """
    if not output.progress.is_terminal:
        begun = time.monotonic()
        yield lambda step: _line(output, step, begun, time.monotonic())
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
def searching(output: CommandOutput, options: Options) -> Generator[Options]:
    """The options with a watch: where standard error is a terminal, how long, what it costs so far, and the gap."""
    if not output.progress.is_terminal:
        yield options
        return
    columns = (SpinnerColumn(), TextColumn("planning"), TimeElapsedColumn())
    line = TextColumn("[dim]{task.description}")
    with Progress(*columns, line, console=output.progress, transient=True) as progress:
        task, known = progress.add_task("", total=None), SearchBounds()

        def tell(news: SearchBounds) -> None:
            nonlocal known
            known = known.after(news)
            progress.update(task, description=_known(known, options.objective))

        yield replace(options, watch=replace(options.watch, tell=tell))


def _known(standing: SearchBounds, objective: PlanObjective) -> str:
    """What a search knows, in words."""
    if standing.gap is not None and standing.objective is not None:
        cost = f"{standing.objective:.4g} USD/h, " if objective is PlanObjective.COST else ""
        return f"{cost}gap {standing.gap:.2%}"
    if standing.bound is not None and objective is PlanObjective.COST:
        return f"at least {standing.bound:.4g} USD/h"
    return ""


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def __call__(self, step: Step) -> None:
        if step.tally is not None:
            self._counted(step, step.tally)
            return
        key = (step.device, step.subject)
        if key not in self._tasks:
            self._make_room()
            self._tasks[key] = self._progress.add_task(
                "", total=1.0, device=clean(step.device), subject=clean(step.subject)
            )
        self._progress.update(self._tasks[key], completed=step.done, description=clean(step.doing))

    def _counted(self, step: Step, tally: WorkCounts) -> None:
        """One bar for a device, and one above for all."""
        overall = f"{tally.done} of {tally.total}{_left(tally.left_s)}"
        self._show(("", ""), "all", "", tally.done / max(tally.total, 1), overall)
        part = step.done if step.done < 1 else 0.0
        done = (tally.device_done + part) / max(tally.device_total, 1)
        here = f"{tally.device_done} of {tally.device_total}{_left(tally.device_left_s)}"
        doing = f"{here}: {clean(step.doing)}"
        self._show((step.device, ""), clean(step.device), clean(step.subject), done, doing)

    def _show(
        self, key: tuple[str, str], device: str, subject: str, done: float, text: str
    ) -> None:
        if key not in self._tasks:
            self._make_room()
            self._tasks[key] = self._progress.add_task(
                "", total=1.0, device=device, subject=subject
            )
        self._progress.update(self._tasks[key], completed=done, subject=subject, description=text)

    def _make_room(self) -> None:
        """A fleet has more devices than a screen has lines: what has ended goes first."""
        shown = [t for t in self._progress.tasks if t.visible]
        if len(shown) < min(SHOWN_BARS, self._progress.console.height - 1):
            return
        ended = next((t for t in shown if t.completed >= 1.0), shown[0])
        self._progress.update(ended.id, visible=False)


def _left(seconds: float | None) -> str:
    """How long it will take, in words that follow others."""
    return "" if seconds is None else f", {duration(seconds)} left"


def duration(seconds: float) -> str:
    """Such as ``40 s`` or ``2 min 05 s``."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{whole} s"


def _line(output: CommandOutput, step: Step, begun: float, now: float) -> None:
    if step.done < 1.0:
        return
    line = f"{clean(step.device)} {clean(step.subject)}: {clean(step.doing)}"
    if step.tally is not None:
        width = len(str(step.tally.total))
        counted = f"{step.tally.done:{width}} of {step.tally.total}"
        line = f"{duration(now - begun):>8}  {counted}  {line}{_left(step.tally.left_s)}"
    output.progress.print(line, soft_wrap=True)
