"""Lines of text: nothing from outside moves the cells beside it, and widths are exact."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from coordinator.tui.model import text as t
from coordinator.tui.model.text import Run

HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "bell\x07",
    "a\rb",
    "two\nlines",
    "\u202eright to left\u202c",
    "שלום",
    "zero\u200bwidth",
    "combi\u0301ned",
    "\ud800",
    "[bold]markup[/bold]",
    "x" * 10_000,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_shown_as_what_it_is_made_of(name):
    shown = t.safe(name)
    assert shown.isprintable()
    assert cell_len(shown) == len(shown) <= t.SAFE_CHARS
    assert "\x1b" not in shown


def test_escapes_name_the_character():
    assert t.safe("a\x1b[0m") == r"a\x1b[0m"
    assert t.safe("\u202e") == r"\u202e"
    assert t.safe("ש") == r"\u05e9"
    assert t.safe("naïve – 日本") == "naïve – 日本"


@given(st.text(max_size=60), st.integers(0, 40))
def test_text_fits_exactly(text, cells):
    assert cell_len(t.fit(t.safe(text), cells)) == cells


@given(st.lists(st.text(max_size=12), max_size=6), st.integers(0, 40))
def test_a_line_is_cut_to_its_width(texts, cells):
    line = tuple(Run(t.safe(text)) for text in texts)
    assert t.width(t.clip(line, cells)) <= cells


@given(st.text(alphabet="abc de", max_size=80), st.integers(3, 30))
def test_wrapping_loses_no_word(text, cells):
    lines = t.wrap(text, cells)
    assert all(cell_len(line) <= cells for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@given(st.floats(0, 2) | st.none(), st.integers(1, 40), st.floats(0, 1) | st.none())
def test_a_bar_has_its_width(share, cells, mark):
    assert cell_len(t.bar(share, cells, mark)) == cells


def test_a_bar_says_how_full_it_is():
    assert t.bar(0.5, 4) == "██░░"
    assert t.bar(0.5, 4, 0.75) == "██░┃"
    assert t.bar(None, 3) == "···"


def test_a_sparkline_shows_the_newest_at_the_right():
    assert t.spark([0.0, 0.5, 1.0], 4) == " ▁▄█"
    assert t.spark([0.0] * 9 + [1.0], 2) == "▁█"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (4.0, "4.00"), (12.34, "12.3"), (1234.5, "1234"), (0.638, "0.638"), (None, "–")],
)
def test_numbers_have_about_three_digits(value, shown):
    assert t.number(value) == shown


def test_quantities_are_written_with_their_unit():
    assert t.milliseconds(9.96) == "10.0 ms"
    assert t.milliseconds(791.2) == "791 ms"
    assert t.milliseconds(85_200) == "85.2 s"
    assert t.size(25_200_000_000) == "25 GB"
    assert t.size(512) == "512 B"
    assert t.age(125) == "2 min"
