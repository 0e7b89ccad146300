"""The recorded demo, and the app on it."""

from __future__ import annotations

import pytest

pytest.importorskip("textual", reason="the extra `tui` is not installed")

from tests.tui.recording import Player, Recording


@pytest.fixture(scope="session")
def recorded():
    """The recorded demo."""
    return Recording.load()


@pytest.fixture(scope="session")
def view_at(recorded):
    """The view at a time of the recording, as the app would have it."""
    from coordinator.telemetry.recent import RecentTelemetry
    from coordinator.tui.model.view import View

    def at(until, **more):
        telemetry = RecentTelemetry()
        for observed in recorded.observed(until):
            telemetry.observe(observed)
        return View(
            fleet=recorded.fleet(until),
            telemetry=telemetry,
            journal=recorded.entries(until),
            now=recorded.began_at + until,
            **more,
        )

    return at


@pytest.fixture(scope="session")
def serving(recorded):
    """A time at which all is well: just before the agent is killed."""
    return recorded.time_of("device-failed") - 2.0


@pytest.fixture
def player(recorded, serving):
    """A session on the recording, while all is well."""
    return Player(recorded, serving)


@pytest.fixture
def app(player):
    """The app on it; it repaints sooner than it would."""
    from coordinator.tui.app import TiermeshApp

    return TiermeshApp(player, repaint_s=0.02)
