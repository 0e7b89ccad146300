"""A small `variants` folder of our own and an empty cache, for every test of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.variants.folders import VariantsFolder


@pytest.fixture
def folder(tmp_path: Path) -> VariantsFolder:
    return VariantsFolder(tmp_path / "ours")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"
