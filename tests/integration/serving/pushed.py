"""A kind of source in memory, to which a test offers requests."""

from __future__ import annotations

from agent.serving.endpoint_io.data_folder import DataFolder
from agent.serving.endpoint_io.kinds import Intake
from tiermesh.documents.assignment import SourceSpec

intakes: list[Intake] = []
"""Of the sources that are open, the newest last."""


class Pushed:
    """Takes what a test offers while it is open."""

    def __init__(self) -> None:
        self._intake: Intake | None = None

    async def start(self, intake: Intake) -> None:
        self._intake = intake
        intakes.append(intake)

    async def close(self) -> None:
        assert self._intake is not None
        intakes.remove(self._intake)


class PushedKind:
    def open(self, spec: SourceSpec, data: DataFolder) -> Pushed:
        return Pushed()


SOURCE = PushedKind()
