"""The parts of the demo that need no mesh; `coordinator demo` itself is the test of the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordinator.cli import main
from coordinator.cli.demo import photos
from coordinator.cli.demo.agents import DEVICES, mesh_of
from coordinator.journal.store import Journal


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TIERMESH_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("options", "field"), [(["--kill-worker", "nosuch"], "nosuch"), (["--images", "0"], "--images")]
)
def test_a_demo_that_cannot_be_is_refused_before_anything_starts(options, field, home, capsys):
    assert main(["demo", "--json", *options]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert field in answer["error"]["what"]
    assert answer["error"]["fix"]
    assert list(home.iterdir()) == []


def test_a_second_demo_leaves_the_photos_of_the_first_alone(home, capsys):
    variants = Path(__file__).parents[3] / "variants"
    photo = home / "demo" / "agents" / "cam-1" / "data" / "signs" / "cam-1-sign-0000.jpg"
    photo.parent.mkdir(parents=True)
    photo.touch()
    first = Journal.open(home / "demo" / "coordinator")
    try:
        assert main(["demo", "--variants", str(variants)]) == 1
    finally:
        first.close()
    assert "another coordinator uses" in capsys.readouterr().err
    assert photo.exists()


def test_demos_of_two_folders_do_not_meet(home):
    assert mesh_of(home / "a") == mesh_of(home / "b" / ".." / "a")
    assert mesh_of(home / "a") != mesh_of(home / "b")
    assert ["--mesh", mesh_of(home)] == DEVICES[0].arguments(home, mesh_of(home))[5:7]


def test_requests_without_a_result_say_why(home):
    file = home / "text.jsonl"
    lost = {"run": "r", "outcome": "error", "error": "photos: cannot read a.jpg"}
    other = {"run": "earlier", "outcome": "error", "error": "of another run"}
    file.write_text("".join(json.dumps(line) + "\n" for line in (lost, other)))
    reading = photos.read([file], "r", {"a.jpg": ["A"]})
    assert (reading.results, reading.errors) == (0, ["photos: cannot read a.jpg"])
