"""Rendered pictures whose text is known: photos of signs, and single lines, clean and degraded.

The same seed gives the same pictures with the same versions of OpenCV, NumPy and Pillow.
"""

from variants.data.lines import Line, render_lines
from variants.data.signs import Sign, read_truth, render_signs

__all__ = ["Line", "Sign", "read_truth", "render_lines", "render_signs"]
