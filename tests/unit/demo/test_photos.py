"""What came out of the demo: how much of the photos was read, how fast, and what is not as promised."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.cli.demo import photos
from tiermesh.errors import TiermeshError

pytest.importorskip("cv2", reason="scoring needs opencv-python-headless")

TRUTH = {"cam-1-a.jpg": ["EXIT", "12"], "cam-1-b.jpg": ["OPEN"]}
BOX = [[0.0, 0.0], [9.0, 0.0], [9.0, 3.0], [0.0, 3.0]]


def line(photo: str, text: list[str], **changed: Any) -> dict[str, Any]:
    payload = {"text": text, "scores": [0.5] * len(text), "boxes": [BOX] * len(text)}
    usual = {"id": photo, "name": f"signs/{photo}", "run": "now", "outcome": "result"}
    times = {"accepted_at": 100.0, "finished_at": 101.0}
    return {**usual, **times, "payload": payload, **changed}


def read(folder: Path, *lines: dict[str, Any]) -> photos.PhotoText:
    file = folder / "text.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return photos.read([file, folder / "never-written.jsonl"], "now", TRUTH)


def test_what_was_read_is_compared_with_what_is_on_the_photos(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        line("cam-1-a.jpg", ["EXIT", "12"], finished_at=101.0),
        line("cam-1-b.jpg", ["OPEM"], finished_at=103.0),
        line("cam-1-b.jpg", ["OPEN"], run="before"),
        line("cam-1-b.jpg", [], outcome="error", payload=None),
    )
    assert (found.results, found.errors, found.characters) == (2, ["no reason given"], 10)
    assert found.accuracy == pytest.approx((1 + 0.75) / 2)
    assert found.rate_rps == pytest.approx(0.5)
    assert found.latency_ms["p50"] == pytest.approx(2_000)
    assert list(found.wrong_form) == []


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"name": "signs/other.jpg"}, "there is no photo 'signs/other.jpg'"),
        ({"name": None}, "there is no photo None"),
        ({"payload": None}, "got `null`"),
        ({"payload": ["EXIT"]}, "got `array`"),
        ({"payload": {"text": ["EXIT"]}}, "missing required field `scores`"),
        ({"payload": {"text": "EXIT", "scores": [1], "boxes": [BOX]}}, "$.text"),
        ({"payload": {"text": [7], "scores": [1], "boxes": [BOX]}}, "$.text[0]"),
        ({"payload": {"text": ["EXIT"], "scores": ["high"], "boxes": [BOX]}}, "$.scores[0]"),
        ({"payload": {"text": ["EXIT"], "scores": [1.5], "boxes": [BOX]}}, "$.scores[0]"),
        ({"payload": {"text": ["EXIT"], "scores": [1], "boxes": [[1, 2]]}}, "$.boxes"),
        ({"payload": {"text": ["A"], "scores": [], "boxes": [BOX]}}, "1 texts, 0 scores, 1 boxes"),
    ],
)
def test_a_result_of_the_wrong_form_is_named_and_the_others_count(
    tmp_path: Path, changed: dict[str, Any], why: str
) -> None:
    wrong = line("cam-1-a.jpg", ["EXIT"], **changed)
    found = read(tmp_path, wrong, line("cam-1-b.jpg", ["OPEN"]))
    (said,) = found.wrong_form
    assert why in said
    assert said.startswith("cam-1-a.jpg: ")
    assert (found.results, found.accuracy, found.characters) == (2, 1.0, 4)


def test_no_result_at_all_is_no_crash(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert (found.results, found.errors, found.accuracy, found.rate_rps) == (0, [], 0.0, 0.0)
    assert found.latency_ms == {}


def test_results_at_the_same_time_have_no_rate(tmp_path: Path) -> None:
    found = read(tmp_path, line("cam-1-a.jpg", ["EXIT"]), line("cam-1-b.jpg", ["OPEN"]))
    assert found.rate_rps == 0.0


def test_a_file_that_is_no_json_lines_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text('{"run": "now"}\n{"run"')
    with pytest.raises(TiermeshError, match=r"text\.jsonl is not JSON lines"):
        photos.read([tmp_path / "text.jsonl"], "now", TRUTH)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
def test_percentiles_lie_in_order_within_what_was_measured(values: list[float]) -> None:
    found = photos._percentiles(values)
    slack = 1e-9 * max(values)
    shown = [min(values), found["p50"], found["p95"], found["p99"], max(values)]
    assert all(a <= b + slack for a, b in pairwise(shown))


def test_photos_are_shared_out_and_those_of_another_run_go(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="rendering needs pillow")
    folders = [tmp_path / name / "data" / "signs" for name in ("cam-1", "cam-2")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "cam-1-old.jpg").touch()
    truth = photos.render(folders, 3, seed=1)
    held = {path.name for folder in folders for path in folder.iterdir()}
    assert held == truth.keys()
    assert [len(list(folder.iterdir())) for folder in folders] == [1, 2]
    assert all(text for lines in truth.values() for text in lines)
    assert photos.render(folders, 3, seed=1) == truth
