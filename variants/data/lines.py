"""Single lines of text, for measuring recognition and the turning of lines alone."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from variants.data import texts
from variants.data.degrading import degrade
from variants.data.lettering import TYPEFACES, ink


class Line(NamedTuple):
    """A crop (height x width x 3, uint8, BGR) and the text on it."""

    text: str
    picture: np.ndarray


def render_lines(count: int, seed: int, *, degraded: bool) -> list[Line]:
    """`count` lines; line i depends on the seed and on i only."""
    return [_line(np.random.default_rng((seed, i)), degraded=degraded) for i in range(count)]


def _line(random: np.random.Generator, *, degraded: bool) -> Line:
    text = texts.line(random)
    mask = ink(text, str(random.choice(TYPEFACES)), int(random.integers(26, 44)))
    margin_x, margin_y = (int(m) for m in random.integers(3, 9, 2))
    mask = np.pad(mask, ((margin_y, margin_y), (margin_x, margin_x)))
    picture = blend(mask, *colours(random))
    if not degraded:
        return Line(text, picture)
    return Line(text, degrade(_tilted(picture, random), random, random.uniform(0.1, 1)))


def colours(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(ink, ground), BGR floats: one dark and one light, either way round."""
    dark, light = random.uniform(0, 90, 3), random.uniform(165, 255, 3)
    return (dark, light) if random.random() < 0.65 else (light, dark)


def blend(mask: np.ndarray, ink_colour: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Ink of one colour on ground of another."""
    share = mask[..., None].astype(np.float32) / 255
    return (share * ink_colour + (1 - share) * ground).astype(np.uint8)


def _tilted(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """As a detector cuts a line out: turned and slanted by a little."""
    height, width = picture.shape[:2]
    shift = random.uniform(-0.06, 0.06) * height
    slant = random.uniform(-0.2, 0.2)
    move = np.array([[1, slant, -slant * height / 2], [shift * 2 / width, 1, -shift]], np.float32)
    return cv2.warpAffine(picture, move, (width, height), borderMode=cv2.BORDER_REPLICATE)
