"""Draws a line of text as a mask of ink, in one of several typefaces."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import cv2
import numpy as np

from tiermesh.errors import Unsupported

SCALABLE: Final = "scalable"
"""Pillow's built-in scalable typeface; the others are OpenCV's Hershey typefaces."""
_HERSHEY: Final = {
    "simplex": cv2.FONT_HERSHEY_SIMPLEX,
    "duplex": cv2.FONT_HERSHEY_DUPLEX,
    "complex": cv2.FONT_HERSHEY_COMPLEX,
    "triplex": cv2.FONT_HERSHEY_TRIPLEX,
    "slanted": cv2.FONT_HERSHEY_TRIPLEX | cv2.FONT_ITALIC,
}
TYPEFACES: Final = (SCALABLE, SCALABLE, SCALABLE, *_HERSHEY)
"""What `ink` can draw; drawn from evenly, so that the scalable one is the commonest."""


def ink(text: str, typeface: str, height: int) -> np.ndarray:
    """The text as a mask (uint8, 255 is ink), cut to its outline; `height` is that of a line in pixels."""
    mask = _scalable(text, height) if typeface == SCALABLE else _hershey(text, typeface, height)
    left, top, width, tall = cv2.boundingRect(mask)
    return mask[top : top + tall, left : left + width]


def _scalable(text: str, height: int) -> np.ndarray:
    from PIL import Image, ImageDraw

    font = _font(height)
    left, top, right, bottom = (int(side) for side in font.getbbox(text))
    picture = Image.new("L", (right - left + 8, bottom - top + 8))
    ImageDraw.Draw(picture).text((4 - left, 4 - top), text, fill=255, font=font)
    return np.asarray(picture)


@cache
def _font(height: int) -> Any:
    from PIL import ImageFont, features

    if not features.check("freetype2"):
        raise Unsupported(
            "the scalable typeface cannot be drawn",
            why="this Pillow was built without FreeType",
            fix="Install Pillow from its wheel: pip install pillow",
        )
    return ImageFont.load_default(size=height)


def _hershey(text: str, typeface: str, height: int) -> np.ndarray:
    face, stroke = _HERSHEY[typeface], max(1, height // 12)
    scale = cv2.getFontScaleFromHeight(face, round(height * 0.7), stroke)
    (width, tall), baseline = cv2.getTextSize(text, face, scale, stroke)
    mask = np.zeros((tall + baseline + 4 * stroke + 8, width + 4 * stroke + 8), np.uint8)
    at = (2 * stroke + 4, tall + 2 * stroke + 4)
    cv2.putText(mask, text, at, face, scale, 255, stroke, cv2.LINE_AA)
    return mask
