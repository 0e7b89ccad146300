"""The sinks of a device: each open one has a thread of its own, and what has ended at them is remembered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from agent.serving.driver import FlowDriver
from agent.serving.endpoint_io.data_folder import DataFolder
from agent.serving.endpoint_io.kinds import SinkPlace, sink_kind
from agent.serving.endpoint_io.results import read_outcomes
from agent.serving.endpoint_io.sink_writer import SinkWriter
from agent.serving.endpoints.sink import SinkState
from agent.serving.flow import Flow
from agent.serving.instructions import Drop, Write
from tiermesh import background
from tiermesh.documents.assignment import Assignment, SinkSpec, StageSpec
from tiermesh.errors import TiermeshError
from tiermesh.frames import Kind

log = logging.getLogger(__name__)

_TOGETHER_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class _OpenSink:
    """A sink that is here."""

    spec: SinkSpec
    writer: SinkWriter


class SinkHost:
    """Carries out what the flows say of sinks."""

    def __init__(self, driver: FlowDriver, data: DataFolder, state: Path) -> None:
        self._driver = driver
        self._data = data
        self._state = state
        self._disk = ThreadPoolExecutor(1, "drops")
        self._open: dict[tuple[str, str], _OpenSink] = {}
        self._drops: dict[tuple[str, str], list[Drop]] = {}

    async def open(self, flow: Flow, assignment: Assignment, stage: StageSpec) -> None:
        """Open a sink, or go on with it.

        Raises:
            TiermeshError: it cannot be served here.
        """
        spec = stage.sink
        if spec is None:
            return
        known = self._open.get((flow.workflow, stage.name))
        if known is not None:
            _check_same(flow, stage.name, known.spec, spec)
            return
        kind = sink_kind(spec.kind)
        sink = await asyncio.to_thread(kind.open, spec, self._place(assignment, stage))
        remembered, counts = await asyncio.to_thread(sink.recover, assignment.run)
        flow.sinks[stage.name] = SinkState(
            assignment.run, remembered, counts, returns_results=kind.returns_results
        )
        label = f"{flow.workflow}, {stage.name}"
        writer = SinkWriter(
            sink,
            clock=self._driver.now,
            done=lambda writes: self._driver.event(flow, lambda f, now: f.written(writes, now)),
            trouble=lambda why: self._driver.notice("sink-blocked", f"{label}: {why}"),
            failed=lambda error: self._driver.later(0.0, partial(_end_worker, label, error)),
        )
        self._open[flow.workflow, stage.name] = _OpenSink(spec, writer)

    def _place(self, assignment: Assignment, stage: StageSpec) -> SinkPlace:
        record = self._state / "sinks" / assignment.workflow / f"{stage.name}.jsonl"
        return SinkPlace(self._data, record)

    async def remember(self, flow: Flow, assignment: Assignment) -> None:
        """A sink that is elsewhere now and was here before still tells which requests have ended here."""
        here = {replica.stage for replica in assignment.replicas}
        for stage in assignment.stages.values():
            if stage.sink is None or stage.name in here or stage.name in flow.sinks:
                continue
            path = sink_kind(stage.sink.kind).record(stage.sink, self._place(assignment, stage))
            if await asyncio.to_thread(path.is_file):
                remembered = await asyncio.to_thread(read_outcomes, path)
                flow.sinks[stage.name] = SinkState(assignment.run, remembered)

    def carry_out(self, flow: Flow, instruction: Write | Drop) -> None:
        """Do what a flow says, in the thread of the sink."""
        if isinstance(instruction, Write):
            self._open[flow.workflow, instruction.sink].writer.put(instruction)
        else:
            self._drop(flow, instruction)

    def _drop(self, flow: Flow, drop: Drop) -> None:
        """Take back the end of a request, with others that come soon: a file is written anew for that."""
        waiting = self._drops.setdefault((flow.workflow, drop.sink), [])
        waiting.append(drop)
        if len(waiting) == 1:
            self._driver.later(_TOGETHER_S, lambda: self._drop_together(flow, drop.sink))

    def _drop_together(self, flow: Flow, sink: str) -> None:
        key = flow.workflow, sink
        drops, generation = self._drops.pop(key, []), flow.generations.get(flow.current)
        if generation is None or not drops:
            return

        def done(kinds: Mapping[str, Kind]) -> None:
            dropped = [(drop, kinds.get(drop.frame.request_id)) for drop in drops]
            self._driver.event(flow, lambda f, now: f.dropped(dropped, now))
            text = (
                f"{flow.workflow}, {sink}: taken back, since their requests were answered "
                f"elsewhere meanwhile: {len(drops)}"
            )
            self._driver.notice("results-dropped", text)

        ids, assignment = [drop.frame.request_id for drop in drops], generation.assignment
        known = self._open.get(key)
        if known is not None:
            known.writer.drop(ids, assignment.run, done)
        else:
            background.submit(
                self._disk, self._drop_failed, self._drop_elsewhere, assignment, sink, ids, done
            )

    def _drop_failed(self, error: BaseException) -> None:
        """What is to be taken back is asked for again; a notice says why that does not help."""
        log.error("taking results back failed", exc_info=error)
        self._driver.notice("sink-blocked", f"{type(error).__name__}: {error}")

    def _drop_elsewhere(
        self,
        assignment: Assignment,
        stage: str,
        ids: list[str],
        done: Callable[[Mapping[str, Kind]], None],
    ) -> None:
        """Take back what has ended at a sink that is elsewhere now."""
        spec = assignment.stages[stage].sink
        if spec is None:
            return
        try:
            place = self._place(assignment, assignment.stages[stage])
            sink = sink_kind(spec.kind).open(spec, place)
            sink.recover(assignment.run)
            kinds = sink.drop(ids, assignment.run)
            sink.close()
        except TiermeshError as error:
            # It is asked for again.
            self._driver.notice("sink-blocked", str(error))
            return
        done(kinds)

    async def close_workflow(self, workflow: str) -> None:
        """Bring what waits to the disk, and close a workflow's sinks."""
        for key in [k for k in self._open if k[0] == workflow]:
            await asyncio.to_thread(self._open.pop(key).writer.close)

    def close(self) -> None:
        """End the thread."""
        self._disk.shutdown()


def _end_worker(label: str, error: BaseException) -> None:
    """A worker whose sink has no thread confirms nothing: what fails in its event loop has it started again."""
    raise RuntimeError(f"the thread of the sink {label} has failed") from error


def _check_same(flow: Flow, stage: str, before: SinkSpec, now: SinkSpec) -> None:
    if before != now:
        raise TiermeshError(
            f"{stage} cannot go on in another place",
            why="the former file records which requests have finished",
            fix=f"Stop {flow.workflow} first",
        )
