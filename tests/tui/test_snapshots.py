"""Each screen as a picture, from the recorded demo, at two sizes. `pytest --snapshot-update` draws them anew."""

from __future__ import annotations

import pytest

from coordinator.tui import messages as m
from coordinator.tui.app import TiermeshApp
from coordinator.tui.model.plan import Tab
from tests.tui import answers

SIZES = {"wide": (120, 40), "small": (80, 24)}


@pytest.fixture
def picture(snap_compare, player, monkeypatch):
    """Compares the app after some keys with its picture."""
    monkeypatch.setenv("TZ", "UTC")
    import time

    time.tzset()

    def compare(keys, size, *, at=None, then=None):
        if at is not None:
            player.until = at
        app = TiermeshApp(player, repaint_s=0.01)

        async def prepare(pilot):
            await pilot.pause(0.2)
            await pilot.press(*keys)
            if then is not None:
                then(app)
            await pilot.pause(0.3)

        return snap_compare(app, terminal_size=SIZES[size], run_before=prepare)

    return compare


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("screen", "keys"),
    [
        ("fleet", ["1"]),
        ("placement", ["2"]),
        ("rollout", ["4"]),
        ("profiles", ["5", "down", "right"]),
        ("events", ["6"]),
    ],
)
def test_screens(picture, screen, keys, size):
    assert picture(keys, size)


@pytest.mark.parametrize("size", SIZES)
def test_plan(picture, player, size):
    def answer(app):
        app.screen.asking = answers.ASKING
        app.screen.tab = Tab.FRONTIER
        player.post(m.CandidateChanged(answers.load()))

    assert picture(["3"], size, then=answer)


@pytest.mark.parametrize("size", SIZES)
def test_a_failure(picture, recorded, size):
    assert picture(["2"], size, at=recorded.time_of("replan-started") + 0.01)


@pytest.mark.parametrize("size", SIZES)
def test_the_answer_to_a_failure(picture, recorded, size):
    assert picture(["2"], size, at=recorded.time_of("replan-ended", last=True) + 8.0)


def test_light(picture):
    assert picture(["2", "t"], "wide")


def test_help(picture):
    assert picture(["2", "question_mark"], "wide")


def test_hostile_names(picture, recorded):
    """Events and devices whose words want to move the cursor, colour the screen and run from right to left."""
    from dataclasses import replace

    import msgspec

    def hostile(app):
        fleet = app.view.fleet
        names = ["\x1b[2J\x1b[31mred", "[bold red]markup[/]", "\u202egnp.exe", "x" * 300]
        devices = {
            key: msgspec.structs.replace(device, name=name)
            for (key, device), name in zip(fleet.devices.items(), names, strict=False)
        }
        app.view = replace(app.view, fleet=msgspec.structs.replace(fleet, devices=devices))
        app.dirty()

    assert picture(["1"], "wide", then=hostile)
