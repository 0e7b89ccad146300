"""What bench/pushes measures with 200 MB, on little: agents and a coordinator as processes, killed and cut."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bench.pushes.scenarios import through_breaks, to_many
from tiermesh import ids, limits

SIZE = 12 * 2**20


@pytest.fixture
def file(tmp_path: Path) -> tuple[Path, str]:
    data = random.Random(1).randbytes(SIZE)
    path = tmp_path / "artifact"
    path.write_bytes(data)
    return path, ids.digest_bytes(data)


@pytest.mark.slow
async def test_a_push_broken_five_times_sends_a_chunk_more_for_each_break(
    tmp_path: Path, file: tuple[Path, str]
) -> None:
    row = await through_breaks(tmp_path, *file)
    assert row["ok"], row
    assert row["sent_bytes"] <= 1.05 * SIZE + 5 * limits.ARTIFACT_CHUNK_BYTES


@pytest.mark.slow
async def test_an_artifact_for_four_devices_of_a_lan_leaves_the_coordinator_once(
    tmp_path: Path, file: tuple[Path, str]
) -> None:
    row = await to_many(tmp_path, *file, 4)
    assert row["ok"], row
    assert row["sent_bytes"] <= 1.3 * SIZE
