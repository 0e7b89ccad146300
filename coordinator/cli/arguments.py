"""Types of command-line arguments: what is out of range is refused before anything is done."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import Any

from tiermesh import ids, wire
from tiermesh.units import Duration


def add_credentials(parser: Any, text: str) -> None:
    """Add the options that say which credentials a command uses, to a parser or a group.

    The parsed arguments have them as `credentials`; `text` is their help.
    """
    parser.add_argument(
        "--insecure-lan",
        dest="credentials",
        action="store_const",
        const=wire.INSECURE_LAN,
        default=wire.LOOPBACK,
        help=text,
    )


def seconds(text: str) -> float:
    """A time above 0."""
    return _number(text, "a time in seconds above 0", above=0.0)


def duration(text: str) -> float:
    """A time above 0 in seconds: with a unit, such as ``10min``, or a number of seconds."""
    try:
        return float(Duration.parse(text))
    except ValueError:
        return _number(text, _DURATION, above=0.0)


_DURATION = "a time above 0, such as 90s or 10min"


def count(text: str) -> int:
    """A whole number of at least 1."""
    wanted = "a whole number of at least 1"
    number = _number(text, wanted, above=0.0)
    if number != int(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return int(number)


def finite(text: str) -> float:
    """A number, whose sign is checked where its meaning is known."""
    return _number(text, "a finite number", above=-math.inf)


def amount(text: str) -> float:
    """A finite number of at least 0."""
    number = _number(text, _AMOUNT, above=-math.inf)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not {_AMOUNT}")
    return number


def above_zero(text: str) -> float:
    """A finite number above 0."""
    return _number(text, "a number above 0", above=0.0)


_AMOUNT = "a number of at least 0"


def name(text: str) -> str:
    """A name as devices, meshes and runs have it."""
    if not re.fullmatch(ids.NAME_PATTERN, text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a name: letters, digits, `.`, `_` and `-`, beginning with a letter or digit"
        )
    return text


def digest_or_path(text: str) -> str | Path:
    """A digest as text; anything else is the path of a file."""
    return text if ids.is_digest(text) else Path(text)


def _number(text: str, wanted: str, *, above: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not above < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return number
