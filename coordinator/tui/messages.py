"""What sessions and workers tell the app. Handlers of the app are the only place where state changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.message import Message

if TYPE_CHECKING:
    from coordinator.fleet import Fleet
    from coordinator.journal.store import Entry
    from coordinator.planning.explain import Explanation
    from coordinator.progress import Progress
    from coordinator.telemetry.watching import Observed
    from coordinator.tui.model.candidate import PlanAnswer
    from tiermesh.errors import TiermeshError


@dataclass
class MeshOpened(Message, bubble=False):
    """The session has its mesh; `refusal` says why nothing can be changed from here, if so."""

    title: str
    tiers: Sequence[str]
    refusal: str = ""


@dataclass
class FleetChanged(Message, bubble=False):
    """The state of the mesh is another one. Only the newest matters."""

    fleet: Fleet

    def can_replace(self, message: Message) -> bool:
        """Whether it stands for one that waits."""
        return isinstance(message, FleetChanged)


@dataclass
class Journalled(Message, bubble=False):
    """More is in the journal."""

    entries: Sequence[Entry]


@dataclass
class SamplesArrived(Message, bubble=False):
    """What devices said since the last of these: a batch, so that a thousand devices are four messages a second."""

    observed: Sequence[Observed]


@dataclass
class Progressed(Message, bubble=False):
    """How far pieces of work are: the newest of each since the last of these."""

    steps: Sequence[Progress]


@dataclass
class WorkStarted(Message, bubble=False):
    """Something is being done."""

    what: str


@dataclass
class WorkEnded(Message, bubble=False):
    """It is done, or failed."""

    what: str
    text: str = ""
    error: TiermeshError | None = None
    good: bool = True


@dataclass
class ActionRefused(Message, bubble=False):
    """Something short could not be done."""

    what: str
    error: TiermeshError


@dataclass
class CandidateChanged(Message, bubble=False):
    """A plan that is being looked for: nearer to the best, found, or impossible."""

    candidate: PlanAnswer


@dataclass
class Explained(Message, bubble=False):
    """Why a plan is as it is."""

    plan: str
    explanation: Explanation


@dataclass
class Fatal(Message, bubble=False):
    """The session cannot go on."""

    error: TiermeshError
