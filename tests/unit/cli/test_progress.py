"""What is shown on a terminal while something goes on."""

from __future__ import annotations

import io

from rich.console import Console

from coordinator.cli.output import Output
from coordinator.cli.progress import searching
from coordinator.planning.options import Objective, Options
from coordinator.planning.watching import Standing


def shown(options: Options, *news: Standing, terminal: bool = True) -> str:
    """What a search with such news leaves on standard error."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=80)
    with searching(Output(json=True, progress=console), options) as followed:
        for one in news:
            followed.watch.know(one.objective, one.bound)
    return file.getvalue()


def test_a_search_shows_its_time_its_cost_and_its_gap():
    text = shown(Options(), Standing(bound=0.5), Standing(objective=0.625))
    assert "planning" in text
    assert "0:00:00" in text
    assert "0.625 USD/h, gap 20.00%" in text


def test_what_is_not_a_cost_is_not_shown_as_one():
    text = shown(Options(objective=Objective.THROUGHPUT), Standing(-8.0, -10.0))
    assert "gap 25.00%" in text
    assert "USD" not in text


def test_a_pipe_gets_nothing():
    assert shown(Options(), Standing(0.625, 0.5), terminal=False) == ""
