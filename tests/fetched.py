"""The variants that ship, fetched once into the cache that `make` uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coordinator.variants import Fetcher, Ladders
from tiermesh.errors import Unreachable, Unsupported

CHECKOUT = Path(__file__).parents[1]
VARIANTS = CHECKOUT / "variants"


def fetched_ladders() -> Ladders:
    """Every variant of the ladders; skips the test on a machine with neither cache nor network."""
    home = Path(os.environ.get("TIERMESH_HOME", CHECKOUT / ".tiermesh")).absolute()
    found = Ladders.open(VARIANTS, home)
    try:
        Fetcher(found).fetch(found.models)
    except (Unreachable, Unsupported) as error:
        pytest.skip(f"the variants are not in {home} and cannot be fetched: {error}")
    return found
