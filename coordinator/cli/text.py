"""Text from outside, made safe to print: no markup, no control characters, not too long."""

from __future__ import annotations

from rich.markup import escape

SHOWN_CHARS = 300


def clean(text: object) -> str:
    """`text` as one printable line that rich prints as it is."""
    shown = "".join(c if c.isprintable() else " " for c in str(text)).strip()
    return escape(shown if len(shown) <= SHOWN_CHARS else shown[: SHOWN_CHARS - 1] + "…")


def device_label(name: str, slowdown: float | None) -> str:
    """A device's name, marked where its speed is emulated."""
    slow = slowdown is not None and slowdown > 1
    return clean(name) + (f" [dim](emulated {slowdown:g}x)[/]" if slow else "")


def megabytes(size: float | None) -> str:
    """A size in MB, for people."""
    return "" if size is None else f"{size / 1e6:.1f} MB" if size < 1e8 else f"{size / 1e6:.0f} MB"
