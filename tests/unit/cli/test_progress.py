"""What is shown on a terminal while something goes on."""

from __future__ import annotations

import io

from rich.console import Console

from coordinator.cli.output import CommandOutput
from coordinator.cli.progress import bars, searching
from coordinator.planning.options import Options, PlanObjective
from coordinator.planning.search_progress import SearchBounds
from coordinator.progress import Progress as Step
from coordinator.progress import WorkCounts


def shown(options: Options, *news: SearchBounds, terminal: bool = True) -> str:
    """What a search with such news leaves on standard error."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=80)
    with searching(CommandOutput(json=True, progress=console), options) as followed:
        for one in news:
            followed.watch.know(one.objective, one.bound)
    return file.getvalue()


def test_a_search_shows_its_time_its_cost_and_its_gap():
    text = shown(Options(), SearchBounds(bound=0.5), SearchBounds(objective=0.625))
    assert "planning" in text
    assert "0:00:00" in text
    assert "0.625 USD/h, gap 20.00%" in text


def test_what_is_not_a_cost_is_not_shown_as_one():
    text = shown(Options(objective=PlanObjective.THROUGHPUT), SearchBounds(-8.0, -10.0))
    assert "gap 25.00%" in text
    assert "USD" not in text


def test_a_pipe_gets_nothing():
    assert shown(Options(), SearchBounds(0.625, 0.5), terminal=False) == ""


STEPS = [
    Step("cam-1", "detect/v3", 0.5, "batch 4", tally=WorkCounts(6, 36, 90.4, 2, 9, 20.0)),
    Step("cam-1", "detect/v3", 1.0, "measured", tally=WorkCounts(7, 36, 88.0, 3, 9, 18.0)),
]


def reported(*steps: Step, terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120, height=30)
    with bars(CommandOutput(json=True, progress=console)) as report:
        for step in steps:
            report(step)
    return file.getvalue()


def test_a_terminal_shows_how_many_are_done_and_how_long_the_others_take():
    text = reported(*STEPS, terminal=True)
    assert "7 of 36, 1 min 28 s left" in text
    assert "3 of 9, 18 s left: measured" in text


def test_a_pipe_gets_a_line_for_each_that_has_ended():
    text = reported(*STEPS, terminal=False)
    assert text == "     0 s   7 of 36  cam-1 detect/v3: measured, 1 min 28 s left\n"


def test_what_is_not_counted_is_shown_as_before():
    assert reported(Step("cam-1", "push", 1.0, "done"), terminal=False) == "cam-1 push: done\n"
