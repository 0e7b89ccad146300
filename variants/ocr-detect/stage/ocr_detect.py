"""Finds the lines of text in a photo: PP-OCR detection (differentiable binarization).

In: ``{"name": str, "image": bytes of an encoded picture}``. Out: ``{"name", "lines": [uint8 BGR crop of h x w x 3],
"boxes": [four [x, y] corners, clockwise from the top left]}``, in reading order. Box corners are pixels of the photo.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

LONG_SIDE = 512
SHORT_SIDE = 384
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)

TEXT_PROBABILITY = 0.3
BOX_PROBABILITY = 0.5
GROWTH = 1.4
SMALLEST_SIDE = 3
LINES = 64
LINE_HEIGHT = 48

SAMPLES = (("NORTH GATE",), ("BAKERY", "OPEN 7 TO 19"), ("PLATFORM 4", "MIND THE STEP", "EXIT"))


class Detect:
    """`options`: `long_side` and `short_side`, the pixels that a photo is brought to (multiples of 32)."""

    def __init__(self, files: Mapping[str, Path], options: Mapping[str, Any]) -> None:
        del files
        self._long = int(options.get("long_side", LONG_SIDE))
        self._short = int(options.get("short_side", SHORT_SIDE))
        if self._long % 32 or self._short % 32:
            raise ValueError("`long_side` and `short_side` must be multiples of 32")

    def items(self, payload: Mapping[str, Any]) -> list[dict[str, np.ndarray]]:
        """One item: the photo in one of two sizes, so that photos of any size make batches."""
        image = _decode(payload)
        height, width, scale = self._fit(image)
        shrunk = cv2.resize(image, None, fx=scale, fy=scale, interpolation=_interpolation(scale))
        shrunk = shrunk[:height, :width]
        canvas = np.zeros((height, width, 3), np.float32)
        pixels = shrunk.astype(np.float32) / np.float32(255)
        canvas[: shrunk.shape[0], : shrunk.shape[1]] = (pixels - MEAN) / DEVIATION
        return [{"x": np.ascontiguousarray(canvas.transpose(2, 0, 1))}]

    def result(
        self, payload: Mapping[str, Any], outputs: list[dict[str, np.ndarray]]
    ) -> dict[str, Any]:
        """Boxes from the map of text probability (1 x height x width), and what they enclose."""
        image = _decode(payload)
        _, _, scale = self._fit(image)
        (probability,) = next(iter(outputs[0].values()))
        boxes = _in_reading_order([box / scale for box in _boxes(probability)])
        return {
            "name": payload["name"],
            "lines": [_crop(image, box) for box in boxes],
            "boxes": [np.rint(box).astype(int).tolist() for box in boxes],
        }

    def samples(self) -> list[dict[str, Any]]:
        """Signs with one, two and three lines."""
        return [{"name": f"sample-{i}", "image": _sign(lines)} for i, lines in enumerate(SAMPLES)]

    def check(self, index: int, result: Mapping[str, Any]) -> str | None:
        """Every line of the sign is found once."""
        found, expected = len(result["lines"]), len(SAMPLES[index])
        if found != expected or found != len(result["boxes"]):
            return f"{found} lines found on a sign with {expected}"
        if any(line.ndim != 3 or line.dtype != np.uint8 for line in result["lines"]):
            return "a line is not a colour picture"
        return None

    def _fit(self, image: np.ndarray) -> tuple[int, int, float]:
        height, width = image.shape[:2]
        tall, wide = (self._long, self._short) if height > width else (self._short, self._long)
        return tall, wide, min(tall / height, wide / width)


def _decode(payload: Mapping[str, Any]) -> np.ndarray:
    encoded = np.frombuffer(payload["image"], np.uint8)
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    if image is None:
        raise ValueError(f"{payload.get('name', 'the photo')} is not a picture that can be read")
    return image


def _interpolation(scale: float) -> int:
    return cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR


def _boxes(probability: np.ndarray) -> list[np.ndarray]:
    """Corners (4 x 2) of the rectangles around text, in pixels of the map.

    The network marks a shrunken core of each line; DB (Liao et al., 2020) grows it back by area x ratio / perimeter.
    For a rectangle that growth is the same on every side, so no polygon clipping is needed.
    """
    mask = cv2.dilate((probability > TEXT_PROBABILITY).astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    boxes: list[np.ndarray] = []
    for contour in sorted(contours, key=cv2.contourArea, reverse=True)[:LINES]:
        center, (width, height), angle = cv2.minAreaRect(contour)
        if min(width, height) < SMALLEST_SIDE:
            continue
        if (
            _mean_inside(probability, cv2.boxPoints((center, (width, height), angle)))
            < BOX_PROBABILITY
        ):
            continue
        growth = GROWTH * width * height / (width + height)
        boxes.append(cv2.boxPoints((center, (width + growth, height + growth), angle)))
    return [_clockwise(box) for box in boxes]


def _mean_inside(probability: np.ndarray, corners: np.ndarray) -> float:
    left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
    right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 1
    part = probability[top:bottom, left:right]
    mask = np.zeros(part.shape, np.uint8)
    cv2.fillPoly(mask, [np.rint(corners - (left, top)).astype(np.int32)], 1)
    return float(cv2.mean(part, mask)[0])


def _clockwise(corners: np.ndarray) -> np.ndarray:
    """Top left, top right, bottom right, bottom left, for text turned by less than 45 degrees."""
    by_x = corners[np.argsort(corners[:, 0], kind="stable")]
    left, right = (pair[np.argsort(pair[:, 1], kind="stable")] for pair in (by_x[:2], by_x[2:]))
    return np.array([left[0], right[0], right[1], left[1]], np.float32)


def _in_reading_order(boxes: list[np.ndarray]) -> list[np.ndarray]:
    """From top to bottom; boxes whose centres lie within half a line's height are one row, left to right."""
    rows: list[list[np.ndarray]] = []
    for box in sorted(boxes, key=lambda b: float(b[:, 1].mean())):
        height = float(np.linalg.norm(box[3] - box[0]))
        if rows and box[:, 1].mean() - rows[-1][0][:, 1].mean() < height / 2:
            rows[-1].append(box)
        else:
            rows.append([box])
    return [box for row in rows for box in sorted(row, key=lambda b: float(b[:, 0].mean()))]


def _crop(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """What the box encloses, made upright, at most `LINE_HEIGHT` pixels high (what recognition reads)."""
    width = max(1, round(max(np.linalg.norm(box[1] - box[0]), np.linalg.norm(box[2] - box[3]))))
    height = max(1, round(max(np.linalg.norm(box[3] - box[0]), np.linalg.norm(box[2] - box[1]))))
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    turn = cv2.getPerspectiveTransform(box.astype(np.float32), corners)
    line = cv2.warpPerspective(
        image, turn, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    if height >= 1.5 * width:
        line = np.rot90(line)
    if line.shape[0] > LINE_HEIGHT:
        size = (max(1, round(line.shape[1] * LINE_HEIGHT / line.shape[0])), LINE_HEIGHT)
        line = cv2.resize(line, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(line)


def _sign(lines: tuple[str, ...]) -> bytes:
    photo = np.full((480, 640, 3), (168, 142, 120), np.uint8)
    cv2.rectangle(photo, (60, 90), (580, 390), (235, 240, 242), -1)
    for row, text in enumerate(lines):
        at = (100, 170 + 80 * row)
        cv2.putText(photo, text, at, cv2.FONT_HERSHEY_DUPLEX, 1.3, (40, 30, 30), 3, cv2.LINE_AA)
    return cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
