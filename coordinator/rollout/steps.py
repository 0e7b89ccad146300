"""The steps of a rollout on one device: prepare, commit, abort, stop. All are safe to repeat."""

from __future__ import annotations

from typing import Final

from coordinator.sessions.session import Progress, Sessions
from tiermesh.documents.assignment import Assignment
from tiermesh.documents.reading import encode_json
from tiermesh.v1 import control_pb2 as pb

SILENCE_S: Final = 120.0
"""A device that prepares says something at least this often; loading a large model is one step."""
ANSWER_S: Final = 45.0
PATIENCE_S: Final = 15.0
"""A device that is lost for so long does not prepare or switch any more; its agent can start again within it.

One that the coordinator knows to have failed is not waited for (`coordinator.sessions.session.FAILED_S`).
"""
GIVING_UP_S: Final = 3.0
"""The same when the device is to forget something: it loses what it only prepared when it is gone."""


class Steps:
    """The steps, taken by one device."""

    def __init__(self, sessions: Sessions, device: str) -> None:
        self._session = sessions.to(device)
        self._calls = sessions.calls

    async def prepare(
        self, assignment: Assignment, progress: Progress = lambda _step, _replica, _seconds: None
    ) -> None:
        """Have it load, warm and test its assignment; `progress` is told what it has done, and of which replica.

        Raises:
            TiermeshError: what the device could not do, as it said, or Unreachable.
        """
        command = pb.Command(
            call=next(self._calls), prepare=pb.Prepare(assignment=encode_json(assignment))
        )
        await self._session.ask(command, progress, patience_s=PATIENCE_S, silence_s=SILENCE_S)

    async def commit(self, workflow: str, generation: int) -> None:
        """Have it serve the generation that it prepared."""
        commit = pb.Generation(workflow=workflow, generation=generation)
        await self._ask(pb.Command(call=next(self._calls), commit=commit), PATIENCE_S)

    async def abort(self, workflow: str, generation: int) -> None:
        """Have it forget a generation, also one that it is preparing."""
        abort = pb.Generation(workflow=workflow, generation=generation)
        await self._ask(pb.Command(call=next(self._calls), abort=abort), GIVING_UP_S)

    async def stop(self, workflow: str, generation: int) -> None:
        """Have it stop serving a workflow once its requests in flight have ended."""
        stop = pb.Generation(workflow=workflow, generation=generation)
        await self._ask(pb.Command(call=next(self._calls), stop=stop), GIVING_UP_S)

    async def stand_by(self, standby: Assignment) -> None:
        """Have it keep replicas loaded that it may need, in place of those before; without any it lets go of them.

        Raises:
            TiermeshError: what the device could not do, as it said, or Unreachable.
        """
        command = pb.Command(
            call=next(self._calls), standby=pb.Prepare(assignment=encode_json(standby))
        )
        await self._session.ask(command, patience_s=GIVING_UP_S, silence_s=SILENCE_S)

    async def _ask(self, command: pb.Command, patience_s: float) -> None:
        await self._session.ask(command, patience_s=patience_s, silence_s=ANSWER_S)
