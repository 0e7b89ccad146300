"""Rendered data: the truth is with the picture, the seed decides everything, scores are what they say."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from variants.data import read_truth, render_lines, render_signs
from variants.data.scoring import box_f1, character_accuracy, edit_distance

WORDS = st.text("abc", max_size=8)


def test_the_seed_decides_every_photo(tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    render_signs(few, 3, seed=5)
    signs = render_signs(many, 6, seed=5)
    assert read_truth(many) == signs
    assert read_truth(few) == signs[:3]
    for sign in signs[:3]:
        assert (few / sign.name).read_bytes() == (many / sign.name).read_bytes()
    other = render_signs(tmp_path / "other", 3, seed=6)
    assert [s.text for s in other] != [s.text for s in signs[:3]]


def test_photos_hold_what_the_truth_says(tmp_path: Path) -> None:
    signs = render_signs(tmp_path, 8, seed=5)
    assert {s.condition for s in signs} == {"clean", "degraded"}
    for sign in signs:
        picture = cv2.imread(str(tmp_path / sign.name))
        assert picture.shape == (480, 640, 3)
        assert 1 <= len(sign.text) == len(sign.boxes) <= 3
        boxes = np.array(sign.boxes)
        assert boxes.min() >= 0
        assert (boxes <= [640, 480]).all()


def test_clean_text_has_contrast_where_the_truth_says(tmp_path: Path) -> None:
    for sign in render_signs(tmp_path, 6, seed=8):
        if sign.condition == "clean":
            grey = cv2.imread(str(tmp_path / sign.name), cv2.IMREAD_GRAYSCALE)
            for box in sign.boxes:
                mask = np.zeros_like(grey)
                cv2.fillPoly(mask, [np.array(box, np.int32)], (1,))
                assert grey[mask > 0].std() > 15


def test_lines_are_the_same_text_clean_and_degraded() -> None:
    clean, degraded = (render_lines(10, 4, degraded=d) for d in (False, True))
    assert [line.text for line in clean] == [line.text for line in degraded]
    assert all(
        not np.array_equal(a.picture, b.picture) for a, b in zip(clean, degraded, strict=True)
    )
    again = render_lines(10, 4, degraded=True)
    assert all(np.array_equal(a.picture, b.picture) for a, b in zip(again, degraded, strict=True))


@given(a=WORDS, b=WORDS, c=WORDS)
def test_the_edit_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, b) == edit_distance(b, a)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


@pytest.mark.parametrize(
    ("expected", "read", "right"),
    [
        (["EXIT"], ["EXIT"], 1.0),
        (["EXIT"], ["EXAT"], 0.75),
        (["EXIT"], [], 0.0),
        (["EXIT"], ["something else entirely"], 0.0),
        (["ab", "cd"], ["ab"], 0.4),
        (["ab", "cd"], ["cd", "ab"], 0.2),
    ],
)
def test_character_accuracy(expected: list[str], read: list[str], right: float) -> None:
    assert character_accuracy(expected, read) == pytest.approx(right)


def test_box_f1() -> None:
    def box(x: float, y: float) -> list[list[float]]:
        return [[x, y], [x + 10, y], [x + 10, y + 10], [x, y + 10]]

    assert box_f1([box(0, 0), box(50, 50)], [box(1, 1), box(50, 50)]) == 1.0
    assert box_f1([box(0, 0)], [box(6, 0)]) == 0.0
    assert box_f1([box(0, 0), box(50, 50)], [box(0, 0)]) == pytest.approx(2 / 3)
    assert box_f1([box(0, 0)], [box(0, 0), box(0, 1)]) == pytest.approx(2 / 3)
    assert box_f1([], []) == 1.0
