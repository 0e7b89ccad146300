"""Network namespaces for the tests of this folder, or the reason why there are none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.mesh.lab import Lab, lab
from tests.mesh.network import unavailable


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skips where network namespaces cannot be made."""
    why = unavailable()
    if why:
        pytest.skip(why)


@pytest.fixture
async def pair(namespaces: None, tmp_path: Path) -> AsyncIterator[Lab]:
    """Source and sink on `src`; stages on `a`, with `b` as their backup."""
    async with lab(tmp_path / "lab", "a", "b") as made:
        yield made
