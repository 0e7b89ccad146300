"""What cameras, weather and distance do to a picture; each effect at a strength drawn by chance."""

from __future__ import annotations

import cv2
import numpy as np


def degrade(picture: np.ndarray, random: np.random.Generator, strength: float) -> np.ndarray:
    """Loss of detail, blur, low contrast and noise, in the order in which a camera adds them.

    Args:
        picture: height x width x 3, uint8.
        random: decides which effects there are, and how much.
        strength: 0 (hardly anything) to 1 (hard to read).
    """
    degraded = picture.astype(np.float32)
    degraded = _shade(degraded, random, strength)
    degraded = _contrast(degraded, random, strength)
    if random.random() < 0.6:
        degraded = _coarsen(degraded, 1 + strength * random.uniform(0.4, 2.2))
    degraded = (
        _shake(degraded, random, strength)
        if random.random() < 0.4
        else cv2.GaussianBlur(degraded, (0, 0), 0.3 + strength * random.uniform(0.4, 2.0))
    )
    noise = random.standard_normal(degraded.shape, dtype=np.float32)
    degraded += noise * np.float32(2 + strength * random.uniform(5, 30))
    return np.clip(degraded, 0, 255).astype(np.uint8)


def _contrast(picture: np.ndarray, random: np.random.Generator, strength: float) -> np.ndarray:
    kept = 1 - strength * random.uniform(0.3, 0.88)
    grey = random.uniform(70, 185)
    return picture * np.float32(kept) + np.float32(grey * (1 - kept))


def _shade(picture: np.ndarray, random: np.random.Generator, strength: float) -> np.ndarray:
    """Light that falls off across the picture in some direction."""
    height, width = picture.shape[:2]
    angle = random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    along = np.cos(angle) * (x / width - 0.5) + np.sin(angle) * (y / height - 0.5)
    return picture * (1 + np.float32(strength * random.uniform(0.2, 0.9)) * along)[..., None]


def _coarsen(picture: np.ndarray, factor: float) -> np.ndarray:
    height, width = picture.shape[:2]
    small = (max(8, round(width / factor)), max(8, round(height / factor)))
    coarse = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def _shake(picture: np.ndarray, random: np.random.Generator, strength: float) -> np.ndarray:
    """Blur along a line, as when the camera moves."""
    length = 1 + 2 * round(strength * random.uniform(0.5, 5))
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1
    center = ((length - 1) / 2, (length - 1) / 2)
    turn = cv2.getRotationMatrix2D(center, random.uniform(0, 180), 1)
    kernel = cv2.warpAffine(kernel, turn, (length, length))
    return cv2.filter2D(picture, -1, kernel / kernel.sum())
