"""The app, driven by keys: what it asks the session for, what its state becomes, and when it paints."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.tui import messages as m
from coordinator.tui.app import TiermeshApp
from coordinator.tui.canvas import Canvas, Table
from coordinator.tui.model.candidate import PlanAnswer, Search, SearchStep
from coordinator.tui.screens.confirm import Confirm
from tiermesh.errors import DigestMismatch

SIZE = (120, 40)


async def until(pilot, condition, seconds=5.0):
    """Wait for a condition on the app."""
    async with asyncio.timeout(seconds):
        while not condition():
            await pilot.pause(0.01)


def text_of(app, selector):
    """What a canvas shows."""
    painting = app.screen.query_one(selector, Canvas).painting
    return "\n".join("".join(run.text for run in painting.line(y)) for y in range(painting.height))


@pytest.fixture
async def pilot(app):
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.view.fleet.running and app.view.telemetry.devices)
        await pilot.pause(0.1)
        yield pilot


async def test_it_opens_on_what_runs(app, pilot):
    assert app.current_mode == "placement"
    assert "detect" in text_of(app, "#board")
    assert "throughput" in text_of(app, "#gauges")


@pytest.mark.parametrize(
    ("key", "mode"),
    enumerate(["fleet", "placement", "plan", "rollout", "profiles", "events"], 1),
)
async def test_each_screen_has_a_key_help_and_a_document(app, pilot, key, mode):
    await pilot.press(str(key))
    assert app.current_mode == mode
    await pilot.press("question_mark")
    await until(pilot, lambda: app.screen.query("#keys"))
    keys = app.screen.query_one("#keys", Canvas)
    assert keys.painting.width <= keys.size.width
    assert "Everywhere" in text_of(app, "#keys")
    assert mode.capitalize() in text_of(app, "#keys")
    await pilot.press("escape")
    await pilot.press("c")
    assert app.clipboard


async def test_a_click_on_a_tab_shows_its_screen(app, pilot):
    strip = text_of(app, "#top").splitlines()[0]
    await pilot.click("#top", offset=(strip.index("6 Events"), 0))
    assert app.current_mode == "events"


async def test_it_can_be_used_at_80_by_24_and_resized(app, pilot):
    await pilot.resize_terminal(80, 24)
    await pilot.pause(0.1)
    assert all(len(line) <= 80 for line in text_of(app, "#gauges").splitlines())
    await pilot.press("1")
    await pilot.press("enter")
    assert "runtimes" in text_of(app, "#side")
    await pilot.press("escape")
    await pilot.resize_terminal(200, 50)
    await pilot.pause(0.1)
    assert app.screen.query_one("#side").display


async def test_the_pane_of_a_device_takes_the_place_of_columns(app, pilot):
    await pilot.press("1")
    assert {"memory", "link"} <= {c.title for c in app.screen.table.columns}
    assert not app.screen.query_one("#side").display
    await pilot.press("enter")
    assert "runtimes" in text_of(app, "#side")
    assert "memory" not in {c.title for c in app.screen.table.columns}


@pytest.mark.parametrize("size", [(120, 40), (80, 24)])
async def test_the_log_opens_at_its_end(player, size):
    app = TiermeshApp(player, repaint_s=0.02)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: len(app.view.journal) > 50)
        await pilot.press("6")
        log = app.screen.query_one("#log")
        last = len(app.screen.log_shown.entries) - 1
        await until(pilot, lambda: log.scroll_offset.y + log.size.height > last)


async def test_filter_and_sort_the_fleet(app, pilot):
    await pilot.press("1", "slash", *"cam-2", "enter")
    rows = app.screen.table.rows
    assert [r.name for r in rows if not isinstance(r, str)] == ["cam-2"]
    await pilot.press("escape", "o")
    assert [r.name for r in app.screen.table.rows] == ["cam-1", "cam-2", "hub-1", "server"]


async def test_the_cursor_stays_on_its_device_while_rows_move(app, pilot):
    await pilot.press("1", "down", "down")
    chosen = app.screen.chosen
    assert app.view.fleet.devices[chosen].name == "hub-1"
    await pilot.press("o", "o", "o", "o", "o")
    table = app.screen.query_one("#devices", Table)
    assert app.screen.table.device(table.marked).id == chosen


async def test_replicas_are_chosen_with_arrows_and_explained(app, pilot, player):
    await pilot.press("down", "down")
    assert app.screen.selected.startswith("detect@")
    assert app.screen.selected in text_of(app, "#ticker")
    await pilot.press("enter")
    await until(pilot, lambda: player.asked)
    assert player.asked[0][0] == "explain"
    assert app.current_mode == "plan"


# --- a failure, and the replan that answers it -------------------------------------------------------------------


async def test_a_failure_and_its_replan_are_seen_as_they_happen(app, pilot, player, recorded):
    generation = app.view.fleet.running["read-signs"].generation
    player.go_to(recorded.time_of("replan-started") + 0.01)
    await until(pilot, lambda: app.screen.query_one("#banner").has_class("some"))
    assert "device-failed" in text_of(app, "#banner")
    assert "✗ hub-1 failed" in text_of(app, "#board")
    player.go_to(recorded.time_of("replan-ended", last=True) + 0.5)
    await until(pilot, lambda: app.view.fleet.running["read-signs"].generation > generation)
    await until(pilot, lambda: "device-failed → replan → generation" in text_of(app, "#banner"))
    assert "hub-1" not in text_of(app, "#board")
    await pilot.press("6")
    assert "replan-ended" in text_of(app, "#log")


# --- planning and applying ---------------------------------------------------------------------------------------


def answer(app, asking, *, search=Search.FOUND):
    """The session's answer to an asking: the plan that runs."""
    running = app.view.fleet.running["read-signs"]
    plan = app.view.fleet.plans[running.plan].plan
    step = SearchStep(0.5, plan.cost.total_per_hour, plan.solver.gap)
    return m.CandidateChanged(PlanAnswer(asking=asking, search=search, plan=plan, steps=[step]))


async def test_changing_an_ask_plans_again_by_itself(app, pilot, player):
    await pilot.press("3", "enter")
    await pilot.press("ctrl+u", *"8/s", "enter")
    await until(pilot, lambda: player.asked)
    name, (asking,) = player.asked[0]
    assert name == "solve"
    assert asking.changes == {"rate": "8/s"}
    player.post(answer(app, asking, search=Search.SOLVING))
    await until(pilot, lambda: "looking for a better plan" in text_of(app, "#answer"))
    assert "0.50 s" in text_of(app, "#answer")


async def test_a_device_is_barred_with_one_key(app, pilot, player):
    await pilot.press("3", *["down"] * 5, "enter")
    row = app.screen.form.rows[app.screen.query_one("#form", Table).marked]
    await until(pilot, lambda: player.asked)
    assert row.key == "cam-1"
    assert player.asked[0][1][0].devices == {"cam-1"}


async def test_nonsense_is_refused_and_changes_nothing(app, pilot, player):
    await pilot.press("3", "enter", "ctrl+u", *"soon", "enter")
    await pilot.pause(0.4)
    assert not player.asked
    assert app.screen.asking.changes == {}


async def test_an_older_answer_does_not_replace_a_newer_one(app, pilot, player):
    await pilot.press("3", "p")
    await until(pilot, lambda: len(player.asked) == 1)
    await pilot.press("p")
    await until(pilot, lambda: len(player.asked) == 2)
    (_, (old,)), (_, (new,)) = player.asked
    player.post(answer(app, new))
    player.post(answer(app, old, search=Search.SOLVING))
    await until(pilot, lambda: app.candidate is not None)
    await pilot.pause(0.05)
    assert app.candidate.number == new.number


async def test_a_plan_is_applied_by_keyboard_alone(app, pilot, player):
    await pilot.press("3", "p")
    await until(pilot, lambda: player.asked)
    player.post(answer(app, player.asked[0][1][0]))
    await until(pilot, lambda: app.candidate is not None)
    await pilot.press("a")
    assert isinstance(app.screen, Confirm)
    await pilot.press("n")
    assert len(player.asked) == 1
    await pilot.press("a", "y")
    await until(pilot, lambda: len(player.asked) == 2)
    assert player.asked[1] == ("apply", (app.candidate.plan,))


async def test_a_refused_apply_says_what_has_changed(app, pilot, player):
    player.refuse = DigestMismatch(
        "the fleet is not the one that this plan was made for", why="hub-1 is gone"
    )
    await pilot.press("3", "p")
    await until(pilot, lambda: player.asked)
    player.post(answer(app, player.asked[0][1][0]))
    await until(pilot, lambda: app.candidate is not None)
    await pilot.press("a", "y")
    await until(pilot, lambda: app._notifications)
    assert any("hub-1 is gone" in n.message for n in app._notifications)
    assert not app.view.doing


async def test_where_another_coordinator_is_at_work_nothing_is_changed(recorded, serving, player):
    player.refusal = "another coordinator uses it"
    app = TiermeshApp(player, repaint_s=0.02)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.view.refusal)
        await until(pilot, lambda: "read only" in text_of(app, "#top"))
        await pilot.press("1", "x", "y")
        await until(pilot, lambda: app._notifications)
        assert player.asked == []


# --- painting ----------------------------------------------------------------------------------------------------


async def test_nothing_is_painted_while_nothing_changes(app, pilot):
    await pilot.pause(0.2)
    before = app.paintings
    await pilot.pause(0.5)
    assert app.paintings == before
    assert app._due is None


async def test_a_thousand_messages_are_a_few_paintings(recorded, serving, player):
    app = TiermeshApp(player, repaint_s=0.2)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.view.telemetry.devices)
        before = app.paintings
        samples = recorded.observed(serving)[-20:]
        for _ in range(1_000):
            player.post(m.SamplesArrived(samples))
        await pilot.pause(0.5)
        assert 0 < app.paintings - before <= 8


async def test_only_lines_that_changed_are_drawn_again(app, pilot, player, serving):
    await pilot.press("1")
    await pilot.pause(0.2)
    drawn = []
    devices = app.screen.query_one("#devices", Table)
    real = devices.render_line
    devices.render_line = lambda y: drawn.append(y) or real(y)
    player.go_to(serving + 0.01)
    await pilot.pause(0.3)
    changed = {y + int(devices.scroll_y) for y in drawn}
    assert len(changed) < devices.size.height


async def test_svg_and_theme(app, pilot, tmp_path):
    app.pictures = tmp_path
    await pilot.press("t")
    assert app.theme == "tiermesh-light"
    await pilot.press("s")
    assert "placement" in (tmp_path / "tiermesh-placement.svg").read_text()


async def test_the_palette_offers_what_can_be_done(app, pilot):
    titles = {c.title for c in app.get_system_commands(app.screen)}
    assert {"Fleet", "Events", "Explain the plan", "Copy as JSON", "Quit"} <= titles
