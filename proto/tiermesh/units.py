"""Quantities as people write them (`12/s`, `93 %`, `900 ms`) and as the code counts them.

A unit is part of the value; a bare number is refused where a unit is due, because `rate: 12` would be read as
per second by one person and per minute by another.
"""

from __future__ import annotations

import re
import sys
from typing import ClassVar, Final, Self

_NUMBER: Final = r"([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)"


class Quantity(float):
    """A float that is written with a unit; the value is in the base unit named by the subclass."""

    scales: ClassVar[dict[str, float]]
    example: ClassVar[str]
    pattern: ClassVar[str]
    above_zero: ClassVar[bool] = False
    most: ClassVar[float] = sys.float_info.max

    def __init_subclass__(cls) -> None:
        units = "|".join(re.escape(unit) for unit in sorted(cls.scales, key=len, reverse=True))
        cls.pattern = rf"^\s*{_NUMBER}\s*({units})\s*$"

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read `text`; ValueError names what was found and how it should be written."""
        match = re.match(cls.pattern, text) if isinstance(text, str) else None
        if match is None:
            units = ", ".join(cls.scales)
            raise ValueError(
                f"found {text!r}; write a number with a unit ({units}), for example {cls.example!r}"
            )
        value = float(match[1]) * cls.scales[match[2]]
        if value > cls.most or (cls.above_zero and value <= 0):
            bounds = " and ".join(cls._bounds())
            raise ValueError(f"found {text!r}; it must be {bounds}, for example {cls.example!r}")
        return cls(value)

    @classmethod
    def _bounds(cls) -> list[str]:
        most = "100 %" if cls.most == 1.0 else "a number that a float can hold"
        return [*(["above 0"] if cls.above_zero else []), f"at most {most}"]


class Rate(Quantity):
    """Requests or items per second."""

    above_zero = True
    scales: ClassVar = {"/s": 1.0, "/min": 1 / 60, "/h": 1 / 3600}
    example = "12/s"


class Share(Quantity):
    """A fraction, 0 to 1; written in percent."""

    most = 1.0
    scales: ClassVar = {"%": 0.01}
    example = "93 %"


class Duration(Quantity):
    """Seconds."""

    above_zero = True
    scales: ClassVar = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
    example = "900 ms"


class Size(Quantity):
    """Bytes."""

    scales: ClassVar = {
        "B": 1.0,
        "kB": 1e3,
        "MB": 1e6,
        "GB": 1e9,
        "KiB": 2.0**10,
        "MiB": 2.0**20,
        "GiB": 2.0**30,
    }
    example = "512 MB"


class Price(Quantity):
    """US dollars per hour."""

    scales: ClassVar = {"USD/h": 1.0, "USD/day": 1 / 24, "USD/month": 1 / 730}
    example = "0.40 USD/h"


class Power(Quantity):
    """Watts."""

    scales: ClassVar = {"W": 1.0, "mW": 1e-3, "kW": 1e3}
    example = "15 W"
