"""Loaded replicas: who shares what is loaded, what stands by, and what goes first."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agent.serving.compute import runners
from agent.serving.compute.replicas import Replicas
from tests.unit.agent.test_node import an_assignment
from tiermesh.documents.assignment import Assignment, ReplicaSpec, StageSpec
from tiermesh.errors import TiermeshError


class Runner:
    """A runner that notes what is done with it."""

    def __init__(self, stage: str, told: list[str], wrong: str | None) -> None:
        self.stage = stage
        self._told = told
        self._wrong = wrong

    def warm(self, batch_size: int) -> None:
        self._told.append(f"warm {self.stage}")

    def self_test(self) -> str | None:
        self._told.append(f"test {self.stage}")
        return self._wrong

    def close(self) -> None:
        self._told.append(f"close {self.stage}")


class Loading:
    """Replicas whose loading is noted, and may be held up."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[str] = []
        self.wrong: str | None = None
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.may_end.set()
        monkeypatch.setattr(runners, "load", self._load)
        self.replicas = Replicas(
            None,  # pyright: ignore[reportArgumentType]
            threads=1,
            slowdown=1.0,
            close=lambda runner: runner.close(),
            write_down=lambda _entry: None,
            states=folder,
        )

    def _load(self, _spec: ReplicaSpec, stage: StageSpec, *_: Any, **__: Any) -> Runner:
        self.told.append(f"load {stage.name}")
        self.begun.set()
        assert self.may_end.wait(10)
        return Runner(stage.name, self.told, self.wrong)

    async def prepare(self, assignment: Assignment) -> list[str]:
        """Load an assignment; returns the steps that it took."""
        steps: list[str] = []
        await self.replicas.load(
            assignment, lambda step, replica, _: steps.append(f"{step} {replica}")
        )
        return steps


@pytest.fixture
def loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loading:
    return Loading(tmp_path, monkeypatch)


def models(*names: str, generation: int = 1) -> Assignment:
    stages = {name: StageSpec(name=name, kind="model") for name in names}
    replicas = [ReplicaSpec(id=f"{name}@dev", stage=name) for name in names]
    return an_assignment(generation, stages=stages, replicas=replicas, lanes=[])


async def test_what_stands_by_is_there_at_once(loading: Loading) -> None:
    await loading.replicas.stand_by(models("see"))
    assert loading.told == ["load see", "warm see", "test see"]
    assert await loading.prepare(models("see", generation=2)) == []
    loading.replicas.unload("w", 2)
    assert "close see" not in loading.told, "it stands by still"


async def test_a_new_standby_takes_the_place_of_the_one_before(loading: Loading) -> None:
    await loading.replicas.stand_by(models("see", "read"))
    await loading.replicas.stand_by(models("read", "tell"))
    assert loading.told.count("load read") == 1
    assert "close see" in loading.told
    assert "close read" not in loading.told
    await loading.replicas.stand_by(models())
    assert {"close read", "close tell"} <= set(loading.told)


async def test_a_rollout_shares_what_is_being_loaded_and_then_goes_first(loading: Loading) -> None:
    loading.may_end.clear()
    standing = asyncio.create_task(loading.replicas.stand_by(models("see", "read")))
    await asyncio.to_thread(loading.begun.wait, 10)
    rollout = asyncio.create_task(loading.prepare(models("see", "tell", generation=2)))
    await asyncio.sleep(0)
    loading.may_end.set()
    steps, _ = await asyncio.gather(rollout, standing)
    assert steps == ["load tell@dev", "warm tell@dev", "self-test tell@dev"]
    assert loading.told.count("load see") == 1
    assert "load read" not in loading.told


async def test_the_same_files_are_tested_once_in_a_process(loading: Loading) -> None:
    assert "self-test see@dev" in await loading.prepare(models("see"))
    loading.replicas.unload("w", 1)
    assert await loading.prepare(models("see", generation=2)) == ["load see@dev", "warm see@dev"]


async def test_what_fails_its_test_does_not_stand_by_and_is_tested_again(loading: Loading) -> None:
    loading.wrong = "it sees nothing"
    for _ in range(2):
        with pytest.raises(TiermeshError, match="see@dev"):
            await loading.replicas.stand_by(models("see"))
    assert loading.told.count("test see") == loading.told.count("close see") == 2


async def test_sources_sinks_and_aggregates_do_not_stand_by(loading: Loading) -> None:
    kinds = {"in": "source", "sum": "aggregate", "out": "sink"}
    stages = {n: StageSpec(name=n, kind=kind) for n, kind in kinds.items()}  # pyright: ignore[reportArgumentType]
    whole = replace(models(*kinds), stages=stages)
    await loading.replicas.stand_by(whole)
    assert loading.told == []
