"""Photos of signs with one to three lines of known text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np

from tiermesh.documents.reading import Document, decode_json, encode_json
from variants.data import texts
from variants.data.degrading import degrade
from variants.data.lettering import TYPEFACES, ink
from variants.data.lines import blend, colours

WIDTH: Final = 640
HEIGHT: Final = 480
UPSIDE_DOWN: Final = 0.08
"""Share of the photos that are taken with the camera upside down."""
TRUTH: Final = "truth.json"

Corners = list[list[float]]


class Sign(Document, frozen=True, kw_only=True):
    """What is on a photo: its lines from top to bottom, and the corners of each, in pixels, clockwise."""

    name: str
    text: list[str]
    boxes: list[Corners]
    condition: Literal["clean", "degraded"]


class Truth(Document, frozen=True, kw_only=True):
    """What was rendered, and from which seed."""

    seed: int
    signs: list[Sign]


def render_signs(folder: Path, count: int, seed: int) -> list[Sign]:
    """Write `count` JPEG photos and `truth.json` into `folder`; every second photo is degraded.

    Photo i depends on the seed and on i only. What is there already is written over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    signs: list[Sign] = []
    for sign, encoded in _signs(count, seed):
        (folder / sign.name).write_bytes(encoded)
        signs.append(sign)
    (folder / TRUTH).write_bytes(encode_json(Truth(seed=seed, signs=signs)))
    return signs


def read_truth(folder: Path) -> list[Sign]:
    """What `render_signs` wrote into `folder`."""
    return decode_json((folder / TRUTH).read_bytes(), Truth, TRUTH).signs


def _signs(count: int, seed: int) -> Iterator[tuple[Sign, bytes]]:
    for index in range(count):
        random = np.random.default_rng((seed, index))
        condition = "degraded" if index % 2 else "clean"
        plate, rows = _plate(random)
        photo, boxes = _photograph(plate, [box for _, box in rows], random, condition)
        quality = int(random.integers(40, 80)) if condition == "degraded" else 92
        _, encoded = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, quality])
        sign = Sign(
            name=f"sign-{index:04d}.jpg",
            text=[text for text, _ in rows],
            boxes=[np.round(box, 1).tolist() for box in boxes],
            condition=condition,
        )
        yield sign, encoded.tobytes()


def _plate(random: np.random.Generator) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """A sign seen from the front, and its lines with their corners (4 x 2)."""
    typeface, height = str(random.choice(TYPEFACES)), int(random.integers(14, 46))
    rows = [(text, _fitted(text, typeface, height)) for text in _texts(random)]
    margin, gap = int(height * random.uniform(0.5, 0.9)), int(height * random.uniform(0.35, 0.7))
    width = max(mask.shape[1] for _, mask in rows) + 2 * margin
    tall = sum(mask.shape[0] for _, mask in rows) + gap * (len(rows) - 1) + 2 * margin
    canvas, top, placed = np.zeros((tall, width), np.uint8), margin, []
    centred = random.random() < 0.6
    for text, mask in rows:
        h, w = mask.shape
        left = (width - w) // 2 if centred else margin
        canvas[top : top + h, left : left + w] = mask
        box = np.array([[left, top], [left + w, top], [left + w, top + h], [left, top + h]])
        placed.append((text, box.astype(np.float32)))
        top += h + gap
    return blend(canvas, *colours(random)), placed


def _texts(random: np.random.Generator) -> list[str]:
    return [texts.line(random) for _ in range(int(random.integers(1, 4)))]


def _fitted(text: str, typeface: str, height: int) -> np.ndarray:
    """The line in the height asked, or smaller where it would not fit the photo."""
    mask = ink(text, typeface, height)
    widest = int(WIDTH * 0.72)
    return (
        mask if mask.shape[1] <= widest else ink(text, typeface, height * widest // mask.shape[1])
    )


def _photograph(
    plate: np.ndarray,
    boxes: list[np.ndarray],
    random: np.random.Generator,
    condition: Literal["clean", "degraded"],
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The plate in front of a wall, seen by a camera; the boxes in pixels of the photo."""
    strength = random.uniform(0.2, 0.95) if condition == "degraded" else 0.0
    view = _view(plate.shape[1], plate.shape[0], random, 0.25 + 0.75 * strength)
    if random.random() < UPSIDE_DOWN:
        view = np.array([[-1, 0, WIDTH - 1], [0, -1, HEIGHT - 1], [0, 0, 1]], np.float64) @ view
    photo, size = _wall(random), (WIDTH, HEIGHT)
    seen = cv2.warpPerspective(plate, view, size, flags=cv2.INTER_AREA)
    inside = cv2.warpPerspective(np.ones(plate.shape[:2], np.uint8), view, size)
    photo = np.where(inside[..., None] > 0, seen, photo)
    if strength:
        photo = degrade(photo, random, strength)
    moved = [cv2.perspectiveTransform(box[None].astype(np.float64), view)[0] for box in boxes]
    return photo, moved


def _view(width: int, height: int, random: np.random.Generator, strength: float) -> np.ndarray:
    """The camera's 3 x 3 matrix: turned, from the side, and with the whole plate in the photo."""
    turn = np.radians(random.uniform(-16, 16) * strength)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    centred = corners - corners.mean(axis=0)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    target = centred @ rotation
    target *= 1 + random.uniform(-0.09, 0.09, (4, 2)) * strength
    fit = min(0.96 * WIDTH / np.ptp(target[:, 0]), 0.96 * HEIGHT / np.ptp(target[:, 1]), 1.0)
    target *= fit
    room = np.array([WIDTH, HEIGHT]) - np.ptp(target, axis=0)
    target += random.uniform(0, 1, 2) * room - target.min(axis=0)
    return cv2.getPerspectiveTransform(corners.astype(np.float32), target.astype(np.float32))


def _wall(random: np.random.Generator) -> np.ndarray:
    """A wall with stains of several sizes; every third is of bricks."""
    wall = np.full((HEIGHT, WIDTH, 3), random.uniform(50, 200, 3), np.float32)
    for cells in (4, 12, 40):
        stains = random.uniform(-1, 1, (cells * 3 // 4, cells)).astype(np.float32)
        size = (WIDTH, HEIGHT)
        wall += cv2.resize(stains, size, interpolation=cv2.INTER_CUBIC)[..., None] * 14
    if random.random() < 1 / 3:
        _lay_bricks(wall, random)
    return np.clip(wall, 0, 255).astype(np.uint8)


def _lay_bricks(wall: np.ndarray, random: np.random.Generator) -> None:
    """Draw joints, every second course shifted by half a brick."""
    height, joint = int(random.integers(16, 44)), random.uniform(60, 220)
    width, thick = int(height * random.uniform(2, 3.2)), int(random.integers(1, 4))
    for course, top in enumerate(range(0, HEIGHT, height)):
        cv2.line(wall, (0, top), (WIDTH, top), (joint, joint, joint), thick)
        for left in range(-(course % 2) * width // 2, WIDTH, width):
            cv2.line(wall, (left, top), (left, top + height), (joint, joint, joint), thick)
