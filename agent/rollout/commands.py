"""Carrying out what a coordinator commands: each command once, in the order in which it came."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from tiermesh import limits, wire
from tiermesh.documents.assignment import Assignment
from tiermesh.documents.reading import decode_json
from tiermesh.errors import InvalidDocument, LimitExceeded, TiermeshError
from tiermesh.v1 import control_pb2 as pb

log = logging.getLogger(__name__)

Reply: TypeAlias = Callable[[pb.Answer], None]
"""Takes the answers to a command: progress, and at last the outcome."""

_Work: TypeAlias = Callable[[], Awaitable[None]]
_Generation: TypeAlias = tuple[str, int]


class Obedient(Protocol):
    """What carries the steps of a rollout out, one at a time: `agent.rollout.activate`."""

    async def prepare(
        self, assignment: Assignment, report: Callable[[str, str, float], None]
    ) -> None:
        """Prepare a generation beside what runs."""
        ...

    async def commit(self, workflow: str, generation: int) -> None:
        """Serve the prepared generation."""
        ...

    async def stand_by(self, assignment: Assignment) -> None:
        """Keep the replicas of an assignment loaded that may come."""
        ...

    async def abort(self, workflow: str, generation: int) -> None:
        """Forget a prepared generation."""
        ...

    async def stop(self, workflow: str, generation: int) -> None:
        """Stop a workflow and forget its assignment."""
        ...


class RunningCommands:
    """The commands under way. They go on when the coordinator is cut off or gone; it may ask again."""

    def __init__(self, obedient: Obedient) -> None:
        self._obedient = obedient
        self._under_way: dict[asyncio.Task[None], _Generation | None] = {}

    def take(self, command: pb.Command, reply: Reply) -> None:
        """Begin to carry a command out. Steps wait for one another; an abort ends the preparing it is about."""
        try:
            work, prepares = self._work(command, reply)
        except TiermeshError as error:
            reply(_outcome(command, error))
            return
        log.info("%s", _described(command))
        task = asyncio.create_task(_answered(work, command, reply), name=f"call {command.call}")
        self._under_way[task] = prepares
        task.add_done_callback(lambda task: self._ended(task, command, reply))

    async def close(self) -> None:
        """End what is under way; half a preparation leaves nothing."""
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _work(self, command: pb.Command, reply: Reply) -> tuple[_Work, _Generation | None]:
        """What is to be done, and the generation that it prepares."""
        if len(self._under_way) >= limits.CONTROL_COMMANDS:
            raise LimitExceeded(
                "too many concurrent commands on the device",
                why=f"{limits.CONTROL_COMMANDS} commands are in progress",
            )
        match command.WhichOneof("step"):
            case "prepare":
                assignment = decode_json(command.prepare.assignment, Assignment, "the assignment")
                report = _progress(command, reply)
                prepares = assignment.workflow, assignment.generation
                return lambda: self._obedient.prepare(assignment, report), prepares
            case "commit":
                return _step(self._obedient.commit, command.commit), None
            case "abort":
                self._give_up((command.abort.workflow, command.abort.generation))
                return _step(self._obedient.abort, command.abort), None
            case "stop":
                return _step(self._obedient.stop, command.stop), None
            case "standby":
                standby = decode_json(command.standby.assignment, Assignment, "the standby")
                return lambda: self._obedient.stand_by(standby), None
            case _:
                raise InvalidDocument("unknown command", fix="Upgrade this agent")

    def _give_up(self, generation: _Generation) -> None:
        for task, prepares in self._under_way.items():
            if prepares == generation:
                task.cancel()

    def _ended(self, task: asyncio.Task[None], command: pb.Command, reply: Reply) -> None:
        del self._under_way[task]
        if task.cancelled():
            reply(_outcome(command, TiermeshError("cancelled before it finished")))


def _described(command: pb.Command) -> str:
    """A command in a few words, for the log. An assignment is a document, which is not read for that."""
    step = command.WhichOneof("step") or "an unknown command"
    generation = getattr(command, step, None) if step in ("commit", "abort", "stop") else None
    of = f" {generation.workflow} generation {generation.generation}" if generation else ""
    return f"call {command.call}: {step}{of}"


def _step(step: Callable[[str, int], Awaitable[None]], of: pb.Generation) -> _Work:
    return lambda: step(of.workflow, of.generation)


async def _answered(work: _Work, command: pb.Command, reply: Reply) -> None:
    try:
        await work()
    except TiermeshError as error:
        log.warning("%s failed: %s", _described(command), error)
        reply(_outcome(command, error))
    except Exception as error:
        log.exception("%s failed", _described(command))
        reply(_outcome(command, TiermeshError("the agent failed", why=repr(error))))
    else:
        reply(_outcome(command))


def _progress(command: pb.Command, reply: Reply) -> Callable[[str, str, float], None]:
    def report(step: str, replica: str, seconds: float) -> None:
        progress = pb.Progress(step=step, replica=replica, seconds=seconds)
        reply(pb.Answer(call=command.call, progress=progress))

    return report


def _outcome(command: pb.Command, error: TiermeshError | None = None) -> pb.Answer:
    failure = wire.encode_error(error) if error is not None else b""
    return pb.Answer(call=command.call, outcome=pb.Outcome(error=failure))
