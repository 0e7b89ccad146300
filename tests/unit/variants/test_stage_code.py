"""The stage code of the OCR cascade, without models: shapes in, decoding and geometry out."""

from __future__ import annotations

import ast
import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

VARIANTS = Path(__file__).parents[3] / "variants"
MODELS = ("ocr-detect", "ocr-rotate", "ocr-recognise")
Picture: TypeAlias = NDArray[Any]
BOX = [[0, 0], [9, 0], [9, 4], [0, 4]]


def module(model: str) -> ModuleType:
    path = next((VARIANTS / model / "stage").glob("*.py"))
    spec = importlib.util.spec_from_file_location(f"_tested_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


DETECT, ROTATE, RECOGNISE = map(module, MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_only_the_standard_library_and_what_is_required_is_imported(model: str) -> None:
    folder = VARIANTS / model / "stage"
    requires = tomllib.loads((folder / "stage.toml").read_text())["requires"]
    allowed = {*sys.stdlib_module_names, *requires}
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1600, 900), (40, 30), (333, 333)])
def test_photos_of_every_size_become_one_of_two_shapes(size: tuple[int, int]) -> None:
    width, height = size
    (item,) = DETECT.Detect({}, {}).items(photo(np.zeros((height, width, 3), np.uint8)))
    shape = (3, 512, 384) if height > width else (3, 384, 512)
    assert (item["x"].shape, item["x"].dtype) == (shape, np.float32)


def photo(picture: Picture) -> dict[str, Any]:
    return {"name": "p", "image": cv2.imencode(".png", picture)[1].tobytes()}


@given(
    left=st.integers(20, 250), top=st.integers(20, 300), width=st.integers(40, 200),
    height=st.integers(14, 40), angle=st.floats(-25, 25),
)  # fmt: skip
def test_a_box_of_probability_is_found_and_grown(
    left: int, top: int, width: int, height: int, angle: float
) -> None:
    """The core that the network marks lies inside the box, which is larger by DB's distance on every side."""
    rectangle = ((left + width / 2, top + height / 2), (width, height), angle)
    probability = np.zeros((1, 384, 512), np.float32)
    corners = cv2.boxPoints(rectangle)
    cv2.fillPoly(probability[0], [np.rint(corners).astype(np.int32)], (1.0,))
    if corners.min() < 2 or corners[:, 1].max() > 380:
        return
    payload = photo(np.full((384, 512, 3), 128, np.uint8))
    result = DETECT.Detect({}, {}).result(payload, [{"out": probability}])
    (box,) = result["boxes"]
    (found_w, found_h) = sorted(cv2.minAreaRect(np.array(box, np.float32))[1], reverse=True)
    growth = DETECT.GROWTH * width * height / (width + height)
    assert found_w == pytest.approx(width + growth, abs=8)
    assert found_h == pytest.approx(height + growth, abs=8)
    (line,) = result["lines"]
    assert line.shape[0] <= DETECT.LINE_HEIGHT
    assert line.shape[2] == 3


def test_lines_come_in_reading_order() -> None:
    probability = np.zeros((1, 384, 512), np.float32)
    for x, y in ((300, 104), (40, 100), (40, 30), (170, 200)):
        probability[0, y : y + 16, x : x + 120] = 1.0
    payload = photo(np.zeros((384, 512, 3), np.uint8))
    boxes = DETECT.Detect({}, {}).result(payload, [{"out": probability}])["boxes"]
    centres = [tuple(np.mean(box, axis=0)) for box in boxes]
    expected = [(100, 38), (100, 108), (360, 112), (230, 208)]
    assert centres == [pytest.approx(centre, abs=2) for centre in expected]


def test_a_photo_without_text() -> None:
    payload = photo(np.zeros((384, 512, 3), np.uint8))
    empty = np.zeros((1, 384, 512), np.float32)
    found = DETECT.Detect({}, {}).result(payload, [{"out": empty}])
    assert found == {"name": "p", "lines": [], "boxes": []}
    assert ROTATE.Rotate({}, {}).items(found) == []
    assert ROTATE.Rotate({}, {}).result(found, []) == found
    read = reader("ab", Path("/dev/null")).result(found, [])
    assert read == {"name": "p", "text": [], "scores": [], "boxes": []}


@pytest.mark.parametrize("image", [b"", b"not a picture"])
def test_bytes_that_are_no_picture(image: bytes) -> None:
    with pytest.raises(ValueError, match=r"broken\.jpg is not a picture"):
        DETECT.Detect({}, {}).items({"name": "broken.jpg", "image": image})


@pytest.mark.parametrize(
    ("upside_down", "turned"), [([0.9, 0.8], True), ([0.1, 0.9], False), ([0.99, 0.5], True)]
)
def test_lines_vote_whether_the_photo_is_turned(upside_down: list[float], turned: bool) -> None:
    lines = [np.full((4, 9, 3), i, np.uint8) for i in range(2)]
    lines[0][0, 0] = 200
    payload = {"name": "p", "lines": lines, "boxes": [BOX, [[x, y + 9] for x, y in BOX]]}
    outputs = [{"out": np.float32([1 - p, p])} for p in upside_down]
    result = ROTATE.Rotate({}, {}).result(payload, outputs)
    if not turned:
        assert result == payload
        return
    assert result["lines"][1][-1, -1].tolist() == [200, 200, 200]
    assert result["boxes"][1] == [*BOX[2:], *BOX[:2]]


def reader(characters: str, path: Path, **options: float):
    if path.name != "null":
        path.write_text("\n".join(characters), encoding="utf-8")
    return RECOGNISE.Recognise({"characters.txt": path}, options)


def steps(indices: list[int], known: int, probability: float = 0.9) -> Picture:
    """Probabilities in which step i is sure of `indices[i]` (0 is blank)."""
    one_hot = np.full((len(indices), known + 2), 0.0, np.float32)
    one_hot[np.arange(len(indices)), indices] = probability
    return one_hot


@given(text=st.text("abc ", min_size=1, max_size=12), repeats=st.integers(1, 3))
def test_ctc_gives_back_what_was_written(
    text: str, repeats: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every character repeated, a blank between any two: decoding must give the text."""
    characters = "abc"
    index = {c: i + 1 for i, c in enumerate(characters)} | {" ": len(characters) + 1}
    path = [i for c in text for i in [*[index[c]] * repeats, 0]]
    code = reader(characters, tmp_path_factory.getbasetemp() / "characters.txt")
    payload = {"name": "p", "lines": [None], "boxes": [BOX]}
    result = code.result(payload, [{"out": steps(path, len(characters))}])
    assert result["text"] == ([text.strip()] if text.strip() else [])
    assert result["scores"] == ([0.9] if text.strip() else [])


def test_unsure_lines_are_left_out(tmp_path: Path) -> None:
    code = reader("ab", tmp_path / "characters.txt", sure=0.5)
    outputs = [{"out": steps([1, 0, 2], 2, p)} for p in (0.9, 0.3)]
    payload = {"name": "p", "lines": [None, None], "boxes": [BOX, BOX]}
    assert code.result(payload, outputs)["text"] == ["ab"]


@given(width=st.integers(1, 3000), height=st.integers(1, 48))
def test_lines_come_in_few_widths(width: int, height: int) -> None:
    code = reader("ab", Path("/dev/null"))
    line = np.zeros((height, width, 3), np.uint8)
    (item,) = code.items({"name": "p", "lines": [line], "boxes": [BOX]})
    assert item["x"].dtype == np.float32
    assert item["x"].shape[:2] == (3, 48)
    assert item["x"].shape[2] in {120, 240, 360, 480, 600, 720}


@pytest.mark.parametrize("code", [DETECT.Detect, ROTATE.Rotate])
def test_samples_are_the_same_every_time(code) -> None:
    first, second = code({}, {}).samples(), code({}, {}).samples()
    assert len(first) == len(second) >= 3
    for a, b in zip(first, second, strict=True):
        for one, other in zip(code({}, {}).items(a), code({}, {}).items(b), strict=True):
            assert np.array_equal(one["x"], other["x"])


def test_checks_find_what_is_wrong(tmp_path: Path) -> None:
    code = reader("ab", tmp_path / "characters.txt")
    good = {"text": ["NORTH GATE"]}
    assert code.check(0, good) is None
    assert code.check(0, {"text": ["NORTH GATF"]}) is None
    assert code.check(0, {"text": ["SOUTH GATE"]}) == "'NORTH GATE' was read as 'SOUTH GATE'"
    assert code.check(0, {"text": []}) == "0 lines read of 1"
    rotate = ROTATE.Rotate({}, {})
    upright, upside_down = rotate.samples()[1], rotate.samples()[4]
    assert rotate.check(1, upright) is None
    assert "upside down" in rotate.check(1, upside_down)
    detect = DETECT.Detect({}, {})
    assert detect.check(0, {"lines": [], "boxes": []}) == "0 lines found on a sign with 1"
