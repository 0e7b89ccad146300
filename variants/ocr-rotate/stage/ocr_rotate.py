"""Turns photos that stand on their head: PP-OCR's angle classifier, asked about each line.

In and out: ``{"name", "lines": [uint8 BGR crop of h x w x 3], "boxes"}``. The lines of one photo stand the same way, so
they vote: short words alone are often misjudged. When they are upside down they come out turned, in reading order.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

HEIGHT = 48
WIDTH = 192
UPSIDE_DOWN = 1
SURE = 0.7

BOX = [[[0, 0], [1, 0], [1, 1], [0, 1]]]
SAMPLES = (("NORTH GATE",), ("BAKERY", "OPEN 7 TO 19"), ("PLATFORM 4", "MIND THE STEP", "EXIT"))


class Rotate:
    """`options`: `sure`, the mean probability of "upside down" from which a photo is turned."""

    def __init__(self, files: Mapping[str, Path], options: Mapping[str, Any]) -> None:
        del files
        self._sure = float(options.get("sure", SURE))

    def items(self, payload: Mapping[str, Any]) -> list[dict[str, np.ndarray]]:
        """One item a line, 3 x 48 x 192; what is right of a short line is grey."""
        return [{"x": _item(line)} for line in payload["lines"]]

    def result(
        self, payload: Mapping[str, Any], outputs: list[dict[str, np.ndarray]]
    ) -> dict[str, Any]:
        """The same payload; `outputs` are the probabilities of (upright, upside down)."""
        votes = [float(next(iter(output.values()))[UPSIDE_DOWN]) for output in outputs]
        if not votes or sum(votes) / len(votes) <= self._sure:
            return dict(payload)
        return {
            **payload,
            "lines": [_turned(line) for line in reversed(payload["lines"])],
            "boxes": [[*box[2:], *box[:2]] for box in reversed(payload["boxes"])],
        }

    def samples(self) -> list[dict[str, Any]]:
        """Payloads of one, two and three lines, each upright and upside down."""
        upright = [
            {
                "name": f"sample-{i}",
                "lines": [_line(text) for text in texts],
                "boxes": BOX * len(texts),
            }
            for i, texts in enumerate(SAMPLES)
        ]
        over = [{**p, "lines": [_turned(line) for line in reversed(p["lines"])]} for p in upright]
        return upright + over

    def check(self, index: int, result: Mapping[str, Any]) -> str | None:
        """The lines stand upright, in reading order."""
        texts = SAMPLES[index % len(SAMPLES)]
        if len(result["lines"]) != len(texts) or len(result["boxes"]) != len(texts):
            return f"{len(result['lines'])} lines came out of {len(texts)}"
        for text, line in zip(texts, result["lines"], strict=True):
            if not np.array_equal(line, _line(text)):
                return f"the line {text!r} is upside down or out of order"
        return None


def _item(line: np.ndarray) -> np.ndarray:
    width = min(WIDTH, max(1, round(HEIGHT * line.shape[1] / line.shape[0])))
    pixels = cv2.resize(line, (width, HEIGHT)).astype(np.float32)
    item = np.zeros((3, HEIGHT, WIDTH), np.float32)
    item[:, :, :width] = pixels.transpose(2, 0, 1) / np.float32(127.5) - 1
    return item


def _turned(line: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(line[::-1, ::-1])


def _line(text: str) -> np.ndarray:
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.1, 2)
    line = np.full((HEIGHT, width + 16, 3), (235, 240, 242), np.uint8)
    cv2.putText(line, text, (8, 35), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (40, 30, 30), 2, cv2.LINE_AA)
    return line
