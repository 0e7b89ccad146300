"""How right what was read is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

OVERLAP: Final = 0.5
"""A box is found when its intersection with a box of the truth is at least this share of their union."""


def character_accuracy(expected: Sequence[str], read: Sequence[str]) -> float:
    """1 - edit distance / length of the truth, at least 0; lines are joined by line ends."""
    truth, text = "\n".join(expected), "\n".join(read)
    return max(0.0, 1 - edit_distance(truth, text) / max(1, len(truth)))


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's distance: the fewest characters to insert, delete or replace."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            cheapest = min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
            diagonal, row[j] = row[j], cheapest
    return row[-1]


def box_f1(
    expected: Sequence[Sequence[Sequence[float]]], found: Sequence[Sequence[Sequence[float]]]
) -> float:
    """F1 of boxes (four corners each), every box of the truth taken by the first that overlaps it enough."""
    left = [np.array(box, np.float32) for box in expected]
    hits = 0
    for box in (np.array(box, np.float32) for box in found):
        index = next((i for i, truth in enumerate(left) if _overlap(truth, box) >= OVERLAP), None)
        if index is not None:
            left.pop(index)
            hits += 1
    return 2 * hits / (len(expected) + len(found)) if expected or found else 1.0


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two convex polygons."""
    intersection, _ = cv2.intersectConvexConvex(a, b)
    union = cv2.contourArea(a) + cv2.contourArea(b) - intersection
    return intersection / union if union > 0 else 0.0
