"""Reads lines of text: PP-OCR recognition, a sequence of character probabilities decoded by CTC.

In: ``{"name", "lines": [uint8 BGR crop of h x w x 3], "boxes"}``. Out: ``{"name", "text": [str], "scores": [float],
"boxes"}``, where lines that are empty or unsure are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

HEIGHT = 48
WIDTH_STEP = 120
"""Widths are multiples of this: measured from 32 to 320, it does not change accuracy, only padding and batches."""
WIDTHS = 6
BLANK = 0
SURE = 0.5

SAMPLES = (
    ("NORTH GATE",),
    ("BAKERY", "PLEASE WAIT HERE"),
    ("PLATFORM 4", "MIND THE STEP", "EXIT"),
    ("KEEP OFF THE GRASS HERE",),
    ("OPEN 7 TO 19", "BEWARE OF THE DOG"),
    ("MARKET HALL", "TICKETS SOLD HERE", "ROOM 12"),
)
"""As the signs of `variants/data` are: one to three lines, 2.8 steps of width on the mean (measured on 150 photos:
one step 6 %, two 35 %, three 37 %, four 14 %, five 8 %). What a device profiles is what it will serve.
"""
WRONG_CHARACTERS = 1
"""How many characters of a sample line may be read wrong; the samples are easy."""


class Recognise:
    """`files`: `characters.txt`, the model's characters, one a line. `options`: `sure`, the least score kept."""

    def __init__(self, files: Mapping[str, Path], options: Mapping[str, Any]) -> None:
        listed = files["characters.txt"].read_text(encoding="utf-8").split("\n")
        self._characters = np.array(["", *listed, " "])
        self._sure = float(options.get("sure", SURE))

    def items(self, payload: Mapping[str, Any]) -> list[dict[str, np.ndarray]]:
        """One item a line, 3 x 48 x width; the width is one of few, so that lines make batches."""
        return [{"x": _item(line)} for line in payload["lines"]]

    def result(
        self, payload: Mapping[str, Any], outputs: list[dict[str, np.ndarray]]
    ) -> dict[str, Any]:
        """The text of the lines; each output holds steps x characters probabilities."""
        read = [self._decode(next(iter(output.values()))) for output in outputs]
        kept = [
            (text, score, box)
            for (text, score), box in zip(read, payload["boxes"], strict=True)
            if text and score >= self._sure
        ]
        return {
            "name": payload["name"],
            "text": [text for text, _, _ in kept],
            "scores": [score for _, score, _ in kept],
            "boxes": [box for _, _, box in kept],
        }

    def samples(self) -> list[dict[str, Any]]:
        """Payloads of one, two and three lines, as wide as those of signs."""
        return [
            {
                "name": f"sample-{i}",
                "lines": [_line(text) for text in texts],
                "boxes": [[[0, 0], [1, 0], [1, 1], [0, 1]] for _ in texts],
            }
            for i, texts in enumerate(SAMPLES)
        ]

    def check(self, index: int, result: Mapping[str, Any]) -> str | None:
        """Every line is read, with at most one character wrong."""
        expected = SAMPLES[index]
        if len(result["text"]) != len(expected):
            return f"{len(result['text'])} lines read of {len(expected)}"
        for text, read in zip(expected, result["text"], strict=True):
            if _wrong(text, read) > WRONG_CHARACTERS:
                return f"{text!r} was read as {read!r}"
        return None

    def _decode(self, probabilities: np.ndarray) -> tuple[str, float]:
        """The likeliest character of each step, repeats and blanks taken out, and their mean probability."""
        best = probabilities.argmax(axis=1)
        kept = best != BLANK
        kept[1:] &= best[1:] != best[:-1]
        if not kept.any():
            return "", 0.0
        score = probabilities[np.flatnonzero(kept), best[kept]].mean()
        return "".join(self._characters[best[kept]]).strip(), round(float(score), 4)


def _item(line: np.ndarray) -> np.ndarray:
    """The line at its own proportions on a canvas of the next of few widths; very long lines are squeezed."""
    natural = max(1, round(HEIGHT * line.shape[1] / line.shape[0]))
    canvas = WIDTH_STEP * min(WIDTHS, -(-natural // WIDTH_STEP))
    width = min(natural, canvas)
    pixels = cv2.resize(line, (width, HEIGHT)).astype(np.float32)
    item = np.zeros((3, HEIGHT, canvas), np.float32)
    item[:, :, :width] = pixels.transpose(2, 0, 1) / np.float32(127.5) - 1
    return item


def _line(text: str) -> np.ndarray:
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.1, 2)
    line = np.full((HEIGHT, width + 16, 3), (235, 240, 242), np.uint8)
    cv2.putText(line, text, (8, 35), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (40, 30, 30), 2, cv2.LINE_AA)
    return line


def _wrong(expected: str, read: str) -> int:
    """Edit distance (Levenshtein), row by row."""
    row = list(range(len(read) + 1))
    for i, a in enumerate(expected, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(read, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]
