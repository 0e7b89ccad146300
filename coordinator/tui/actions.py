"""What the app can have done to a mesh, by its coordinator: each action ends in a few words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiermesh.errors import TiermeshError, Unsupported

if TYPE_CHECKING:
    from coordinator.api.client import CoordinatorClient
    from coordinator.api.documents import RolloutReport
    from coordinator.progress import Report
    from tiermesh.documents.plan import Plan


class Actions:
    """What a client has its coordinator do, whether that is this process or another one.

    `refusal` says why nothing can be changed from here, if so; nor can it without a client. Each method returns what
    came of it, in words.

    Raises:
        TiermeshError: it cannot be done.
    """

    def __init__(self, client: CoordinatorClient | None, report: Report, refusal: str = "") -> None:
        self._client, self._report, self._refusal = client, report, refusal

    def _may(self, what: str) -> CoordinatorClient:
        if self._refusal or self._client is None:
            raise Unsupported(f"cannot {what} from here", why=self._refusal)
        return self._client

    async def apply(self, plan: Plan) -> str:
        """Roll a plan out; its coordinator keeps it in the journal first."""
        (rollout,) = await self._may("apply").apply(plan, report=self._report)
        return _told(rollout)

    async def roll_back(self, workflow: str) -> str:
        """Bring back the plan that ran before."""
        return _told(await self._may("roll back").roll_back(workflow, report=self._report))

    async def cancel_rollout(self, workflow: str) -> str:
        """Give an open rollout up; the task that carries it out undoes it."""
        await self._may("cancel").cancel_rollout(workflow)
        return ""

    async def hold_rollout(self, workflow: str, *, hold: bool) -> str:
        """Let no device begin another step of an open rollout, or let them go on."""
        await self._may("hold").hold_rollout(workflow, hold=hold)
        return ""

    async def profile(self, device: str, variant: str) -> str:
        """Measure a variant (by digest) again on a device (by id)."""
        measured = await self._may("profile").measure(
            variants=[variant], devices=[device], again=True, report=self._report
        )
        if measured.failed:
            raise TiermeshError("the measurement failed", why=measured.failed[0].why)
        return "measured"

    async def drain(self, device: str, *, undo: bool) -> str:
        """Roll out plans without a device (by id), and leave it out of new ones; or take that back."""
        client = self._may("drain")
        if undo:
            return f"{await client.undo_drain(device)} may be planned for again"
        drained = await client.drain(device, report=self._report)
        failed = [rollout for rollout in drained.rollouts if rollout.exit_code]
        return _told(failed[0]) if failed else f"{drained.device} has no work any more"


def _told(rollout: RolloutReport) -> str:
    """What a rollout came to, in words.

    Raises:
        TiermeshError: it was undone.
    """
    if rollout.unchanged:
        return "it serves already"
    said = f"generation {rollout.generation}: {rollout.outcome}"
    if rollout.restored is not None:
        said += f"; generation {rollout.restored.generation}: {rollout.restored.outcome}"
    if rollout.exit_code:
        failures = "; ".join(f"{device}: {why}" for device, why in rollout.failures.items())
        raise TiermeshError(said, why=failures)
    return said
