"""Reads and writes the states of aggregates that move between devices, in the compute lane: between jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agent.serving.aggregate_io.statefile import StateFile
from agent.serving.aggregates import snapshot
from agent.serving.aggregates.folding import AggregateState
from agent.serving.aggregates.snapshot import AggregateSnapshot, HeldAggregate
from agent.serving.compute.lane import ComputeLane
from agent.serving.compute.replicas import Replicas
from agent.serving.driver import FlowDriver
from agent.serving.flow import Flow
from agent.serving.instructions import Adopt, Dump, Give, Own, StateInstruction
from tiermesh.errors import TiermeshError

_NOT_LOADED: Final = "it is not loaded any more"


class States:
    """Carries out what a flow says about states."""

    def __init__(self, driver: FlowDriver, replicas: Replicas, lane: ComputeLane) -> None:
        self._driver = driver
        self._replicas = replicas
        self._lane = lane

    def carry_out(self, flow: Flow, instruction: StateInstruction) -> None:
        """Do what is said, between jobs."""
        aggregate = self._replicas.aggregate(flow.workflow, instruction.stage)
        self._lane.call(lambda: self._work(flow, instruction, aggregate))

    def _work(
        self, flow: Flow, instruction: StateInstruction, aggregate: AggregateState | None
    ) -> None:
        match instruction:
            case Dump(stage):
                held, data = self._dumped(flow, stage, aggregate)
                self._driver.event(flow, lambda f, now: f.dumped(stage, held, data, now))
            case Adopt(stage):
                why = _adopt(instruction, aggregate)
                held = aggregate.held if aggregate is not None else HeldAggregate()
                self._driver.event(flow, lambda f, now: f.adopted(stage, held, why, now))
            case Give(stage, given):
                if self._tried(flow, stage, aggregate, lambda one: one.give(given)):
                    self._driver.event(flow, lambda f, now: f.given(stage, given, now))
            case Own(stage):
                self._tried(flow, stage, aggregate, lambda one: one.own())

    def _dumped(
        self, flow: Flow, stage: str, aggregate: AggregateState | None
    ) -> tuple[HeldAggregate | None, bytes]:
        if aggregate is not None:
            is_kept = aggregate.is_kept and aggregate.held.given is None
            return aggregate.held, snapshot.encode(aggregate.snapshot()) if is_kept else b""
        file = self._file(flow, stage)
        if file is None:
            return None, b""
        try:
            return file.held(), snapshot.encode(file.load())
        finally:
            file.close()

    def _tried(
        self,
        flow: Flow,
        stage: str,
        aggregate: AggregateState | None,
        work: Callable[[AggregateState | StateFile], None],
    ) -> bool:
        """Whether it is on disk now; it is asked for again where it is not."""
        file = self._file(flow, stage) if aggregate is None else None
        held_by = aggregate if aggregate is not None else file
        try:
            if held_by is not None:
                work(held_by)
        except TiermeshError as error:
            self._driver.notice("aggregate-stays", f"{flow.workflow}, {stage}: {error}")
            return False
        finally:
            if file is not None:
                file.close()
        return held_by is not None

    def _file(self, flow: Flow, stage: str) -> StateFile | None:
        """The state of an aggregate that is not loaded: it has moved away."""
        running = flow.generations.get(flow.current)
        if running is None:
            return None
        path = self._replicas.state_path(flow.workflow, stage, running.assignment.run)
        return StateFile(path) if path.is_file() else None


def _adopt(adopt: Adopt, aggregate: AggregateState | None) -> str:
    """Empty, or why the state cannot be gone on from."""
    if aggregate is None:
        return _NOT_LOADED
    try:
        state = snapshot.decode(adopt.data) if adopt.data else AggregateSnapshot()
        aggregate.adopt(state, adopt.generation, adopt.token)
    except TiermeshError as error:
        return str(error)
    return ""
