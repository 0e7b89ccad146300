"""Telling when a workflow comes to miss its SLO, or to keep it again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from coordinator.fleet import events
from coordinator.telemetry.attainment import Announcing, Word, attainment_of

if TYPE_CHECKING:
    from coordinator.mesh import Mesh
    from coordinator.replanning.causes import Cause
    from coordinator.telemetry.watching import Observed

WHO: Final = "coordinator"
CAUSES: Final = 3
"""As many are told, the most harmful first."""


class Judging:
    """Records `slo-verdict` when the verdict on a workflow has changed, and has held for some requests."""

    def __init__(
        self,
        mesh: Mesh,
        newest: Mapping[str, Observed],
        causes: Callable[[str], Sequence[Cause]] = lambda _: (),
    ) -> None:
        self._mesh = mesh
        self._newest = newest
        self._causes = causes
        self._announcing = defaultdict[tuple[str, str], Announcing](Announcing)

    async def look(self) -> None:
        """Judge what runs by what each device said last."""
        fleet = self._mesh.fleet
        samples = [said.sample for said in self._newest.values() if said.sample is not None]
        for name, running in fleet.running.items():
            found = attainment_of(name, fleet, samples)
            announcing = self._announcing[name, running.run]
            before, verdict = announcing.said, found.verdict
            if announcing.is_news(verdict.word, found.ended):
                await self._mesh.record(
                    events.SloVerdict(
                        at=self._mesh.now(),
                        who=WHO,
                        workflow=name,
                        generation=running.generation,
                        verdict=verdict.word,
                        before=before,
                        why=verdict.why,
                        causes=self._why_so(name, verdict.word),
                    )
                )

    def _why_so(self, workflow: str, word: Word) -> list[str]:
        """What is otherwise than planned, where the SLO is not kept."""
        if word not in (Word.MISSED, Word.AT_RISK):
            return []
        return [cause.text for cause in self._causes(workflow)][:CAUSES]
