"""What signs say: short lines of Latin letters, digits and a little punctuation."""

from __future__ import annotations

import numpy as np

_PLACES = (
    "Harbour", "Market", "Castle", "Bridge", "River", "Station", "Garden", "Museum", "Mill",
    "Abbey", "Orchard", "Quarry", "Lighthouse", "Forest", "Chapel", "Windmill", "Ferry", "Tower",
)  # fmt: skip
_WAYS = ("Street", "Road", "Lane", "Square", "Avenue", "Gate", "Hill", "Walk", "Yard", "Quay")
_SHOPS = (
    "Bakery", "Bookshop", "Pharmacy", "Florist", "Barber", "Cafe", "Butcher", "Tailor", "Bicycles",
    "Hardware", "Post Office", "Optician", "Fish & Chips", "Dairy", "Laundry", "Library",
)  # fmt: skip
_NOTICES = (
    "Mind the step", "No entry", "Private", "Keep left", "Exit only", "Wet floor", "Push", "Pull",
    "Beware of the dog", "No smoking", "Ring the bell", "Quiet please", "Cash only", "Sold out",
    "Way out", "Please wait here", "Staff only", "Lift to all floors", "Do not lean out",
)  # fmt: skip
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def _street(random: np.random.Generator) -> str:
    return f"{_pick(random, _PLACES)} {_pick(random, _WAYS)}"


def _hours(random: np.random.Generator) -> str:
    first = int(random.integers(0, 4))
    opens, closes = int(random.integers(6, 11)), int(random.integers(16, 23))
    return f"{_DAYS[first]}-{_DAYS[first + 2]} {opens}:30-{closes}:00"


def _price(random: np.random.Generator) -> str:
    return f"${random.integers(1, 99)}.{random.integers(10, 100)}"


def _phone(random: np.random.Generator) -> str:
    return f"Tel. {random.integers(200, 999)} {random.integers(1000, 9999)}"


def _distance(random: np.random.Generator) -> str:
    return f"{_pick(random, _PLACES)} {random.integers(1, 60)} km"


def _number(random: np.random.Generator) -> str:
    return f"{_pick(random, ('Platform', 'Room', 'Gate', 'Bus', 'Dock', 'Route'))} {random.integers(1, 400)}"


def _shop(random: np.random.Generator) -> str:
    return _pick(random, _SHOPS)


def _notice(random: np.random.Generator) -> str:
    return _pick(random, _NOTICES)


_KINDS = (_street, _hours, _price, _phone, _distance, _number, _shop, _notice)


def line(random: np.random.Generator) -> str:
    """One line, 3 to 21 characters; four in ten are in capitals."""
    text = _KINDS[random.integers(len(_KINDS))](random)
    return text.upper() if random.random() < 0.4 else text


def _pick(random: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[random.integers(len(words))]
