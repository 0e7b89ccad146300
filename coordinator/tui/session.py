"""The seam between the app and a mesh: what a session must offer, whatever mesh is behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from textual.message import Message

    from coordinator.tui.model.candidate import Asking
    from tiermesh.documents.plan import Plan

Post: TypeAlias = "Callable[[Message], object]"
"""Puts a message into the app's queue."""


class MeshSession(Protocol):
    """A mesh, as the app sees it: messages come from `run`, and each action tells by messages how it goes.

    Nothing is decided here. An action that cannot be carried out ends in `Ended` with the error.
    """

    def now(self) -> float:
        """Unix seconds."""
        ...

    async def run(self, post: Post) -> None:
        """Open the mesh and tell what happens, until this is cancelled."""
        ...

    async def solve(self, asking: Asking) -> None:
        """Look for the best plan, telling of better ones as they come (`CandidateChanged`)."""
        ...

    async def frontier(self, asking: Asking) -> None:
        """Solve for other accuracies, so that what each costs can be seen."""
        ...

    async def explain(self, plan: Plan) -> None:
        """Say why a plan is as it is (`Explained`)."""
        ...

    async def apply(self, plan: Plan) -> None:
        """Roll a plan out."""
        ...

    async def roll_back(self, workflow: str) -> None:
        """Bring back the plan that ran before."""
        ...

    async def cancel_rollout(self, workflow: str) -> None:
        """Give an open rollout up."""
        ...

    async def hold_rollout(self, workflow: str, *, hold: bool) -> None:
        """Let no device begin another step of an open rollout, or let them go on."""
        ...

    async def profile(self, device: str, variant: str) -> None:
        """Measure a variant (by digest) again on a device (by id)."""
        ...

    async def drain(self, device: str, *, undo: bool = False) -> None:
        """Want no work on a device, or want it again."""
        ...
