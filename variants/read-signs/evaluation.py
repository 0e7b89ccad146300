"""What the OCR cascade is measured on: `DATASETS`, all rendered, so that the truth is known."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from variants.data import Sign, render_lines, render_signs
from variants.data.scoring import box_f1, character_accuracy

SEED: Final = 20
CORNERS: Final = [[0, 0], [1, 0], [1, 1], [0, 1]]

Payload = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One input and how right (0..1) a result for it is."""

    payload: dict[str, Any]
    score: Callable[[Payload], float]


@dataclass(frozen=True)
class Dataset:
    """Inputs with known answers; `model` is None where they go through the whole workflow."""

    name: str
    metric: str
    model: str | None
    count: int
    make: Callable[[int, int], Sequence[Case]]
    seed: int = SEED

    def cases(self, count: int) -> Sequence[Case]:
        """The first `count` cases."""
        return self.make(count, self.seed)


def _signs(count: int, seed: int) -> list[Case]:
    return [_photo(sign, image, _reads(sign.text)) for sign, image in _photos(count, seed)]


def _boxes(condition: str) -> Callable[[int, int], list[Case]]:
    def make(count: int, seed: int) -> list[Case]:
        photos = [(s, i) for s, i in _photos(2 * count, seed) if s.condition == condition]
        return [_photo(sign, image, _finds(sign.boxes)) for sign, image in photos]

    return make


def _photos(count: int, seed: int) -> list[tuple[Sign, bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        signs = render_signs(Path(folder), count, seed)
        return [(sign, (Path(folder) / sign.name).read_bytes()) for sign in signs]


def _photo(sign: Sign, image: bytes, score: Callable[[Payload], float]) -> Case:
    return Case({"name": sign.name, "image": image}, score)


def _lines(*, degraded: bool) -> Callable[[int, int], list[Case]]:
    def make(count: int, seed: int) -> list[Case]:
        lines = render_lines(count, seed, degraded=degraded)
        return [Case(_payload(line.picture), _reads([line.text])) for line in lines]

    return make


def _turns(*, degraded: bool) -> Callable[[int, int], list[Case]]:
    """Every second line upside down."""

    def make(count: int, seed: int) -> list[Case]:
        upright = [line.picture for line in render_lines(count, seed, degraded=degraded)]
        return [
            Case(_payload(picture[::-1, ::-1] if i % 2 else picture), _stands(picture))
            for i, picture in enumerate(upright)
        ]

    return make


def _payload(picture: np.ndarray) -> dict[str, Any]:
    return {"name": "line", "lines": [np.ascontiguousarray(picture)], "boxes": [CORNERS]}


def _reads(text: list[str]) -> Callable[[Payload], float]:
    return lambda result: character_accuracy(text, result["text"])


def _finds(boxes: list[list[list[float]]]) -> Callable[[Payload], float]:
    return lambda result: box_f1(boxes, result["boxes"])


def _stands(upright: np.ndarray) -> Callable[[Payload], float]:
    return lambda result: float(np.array_equal(result["lines"][0], upright))


DATASETS: Final = (
    Dataset("signs", "character_accuracy", None, 160, _signs),
    Dataset("clean-signs", "box_f1", "ocr-detect", 80, _boxes("clean")),
    Dataset("degraded-signs", "box_f1", "ocr-detect", 80, _boxes("degraded")),
    Dataset("clean-lines", "orientation_accuracy", "ocr-rotate", 150, _turns(degraded=False)),
    Dataset("degraded-lines", "orientation_accuracy", "ocr-rotate", 150, _turns(degraded=True)),
    Dataset("clean-lines", "character_accuracy", "ocr-recognise", 150, _lines(degraded=False)),
    Dataset("degraded-lines", "character_accuracy", "ocr-recognise", 150, _lines(degraded=True)),
)
