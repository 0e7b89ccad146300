"""The sources and sinks of a device's workflows: what the flows say of them is carried out here."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from agent.serving.driver import FlowDriver
from agent.serving.endpoint_io.data_folder import DataFolder
from agent.serving.endpoint_io.sink_host import SinkHost
from agent.serving.endpoint_io.source_host import SourceHost
from agent.serving.flow import Flow
from agent.serving.instructions import Drop, Forget, Read, Record, RejectOffers, Settled, Write
from agent.serving.routing.generation import Generation
from tiermesh.documents.assignment import Assignment, ReplicaSpec, StageSpec
from tiermesh.errors import TiermeshError


class EndpointHost:
    """Both sides. `data` is the folder that they may use; `state` is the agent's own."""

    def __init__(self, driver: FlowDriver, data: DataFolder, state: Path) -> None:
        self._sources = SourceHost(driver, data, state)
        self._sinks = SinkHost(driver, data, state)

    async def prepare(
        self, flow: Flow, assignment: Assignment, spec: ReplicaSpec, stage: StageSpec
    ) -> None:
        """Check a source, or open a sink.

        Raises:
            TiermeshError: it cannot be served here; names the replica.
        """
        try:
            if stage.sink is not None:
                await self._sinks.open(flow, assignment, stage)
            elif stage.source is not None:
                await self._sources.check(flow, stage.name, stage.source)
        except TiermeshError as error:
            error.what = f"the replica {spec.id} cannot be served: {error.what}"
            error.fields["replica"] = spec.id
            raise

    async def remember_sinks(self, flow: Flow, assignment: Assignment) -> None:
        """Sinks that are elsewhere now and were here before still tell which requests have ended here."""
        await self._sinks.remember(flow, assignment)

    async def start_source(
        self, flow: Flow, generation: Generation, spec: ReplicaSpec, stage: StageSpec
    ) -> str:
        """Let a source go on where its run stopped; returns its key.

        Raises:
            TiermeshError: it cannot.
        """
        return await self._sources.start(flow, generation, spec, stage)

    async def retire_sources(self, flow: Flow, but: Collection[str]) -> None:
        """Accept no more requests at sources other than those, by key."""
        await self._sources.retire(flow, but)

    def carry_out(
        self,
        flow: Flow,
        instruction: Write | Drop | Read | Record | RejectOffers | Forget | Settled,
    ) -> None:
        """Do what a flow says, in the threads of sources and sinks."""
        if isinstance(instruction, (Write, Drop)):
            self._sinks.carry_out(flow, instruction)
        else:
            self._sources.carry_out(flow, instruction)

    async def close_workflow(self, workflow: str) -> None:
        """Bring what waits to the disk, and close all of a workflow."""
        await self._sinks.close_workflow(workflow)
        await self._sources.close_workflow(workflow)

    def close(self) -> None:
        """End the threads."""
        self._sources.close()
        self._sinks.close()
