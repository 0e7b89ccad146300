"""Prepare, commit, abort and stop assignments: the I/O around `agent.node`.

What runs is on disk before it serves, so that a device that restarts without the coordinator resumes it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import msgspec

from agent import node as nodes
from agent.durable import write_whole
from agent.errors import StateDamaged
from agent.node import Node
from tiermesh import wire
from tiermesh.background import Background
from tiermesh.documents.assignment import Assignment
from tiermesh.documents.reading import decode_json, encode_json
from tiermesh.errors import StorageFull, TiermeshError

log = logging.getLogger(__name__)

_LAST: Final = ".last"
_ASIDE: Final = ".aside"

Report: TypeAlias = Callable[[str, str, float], None]
"""Called with a step (`load`, `warm`, `self-test`), the replica, and the seconds it took; see `compute.replicas`."""


class ServingProcess(Protocol):
    """What serves: the worker's supervisor."""

    async def prepare(self, assignment: Assignment, report: Report) -> None:
        """Load, warm and self-test all replicas beside what runs."""
        ...

    async def commit(self, workflow: str, generation: int) -> None:
        """Switch to the prepared generation."""
        ...

    async def abort(self, workflow: str, generation: int) -> None:
        """Forget the prepared generation; where there is none, nothing happens."""
        ...

    async def stop(self, workflow: str) -> None:
        """Drain and stop a workflow."""
        ...

    async def stand_by(self, assignment: Assignment) -> None:
        """Keep replicas loaded beside what runs, in place of those that were kept so for the workflow."""
        ...


class AssignmentFolder:
    """The committed assignments on disk, one JSON file per workflow, replaced whole; and those that ran before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.unreadable: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)

    def load(self) -> dict[str, Assignment]:
        """All assignments; one that cannot be read is left out, and told in `unreadable`."""
        self.unreadable = []
        found: dict[str, Assignment] = {}
        for path in sorted(self._folder.glob("*.json")):
            try:
                assignment = decode_json(path.read_bytes(), Assignment, str(path))
            except (TiermeshError, OSError) as error:
                self.unreadable.append(f"{path.stem}: cannot resume from {path}: {error}")
                continue
            found[assignment.workflow] = assignment
        return found

    def keep(self, assignment: Assignment) -> None:
        """Put an assignment on disk, whole or not at all."""
        path = self._path(assignment.workflow)
        try:
            if path.exists():
                write_whole(self._last(assignment.workflow), path.read_bytes())
            write_whole(path, encode_json(assignment))
        except OSError as error:
            raise StorageFull(
                f"cannot write the assignment of {assignment.workflow}",
                why=error.strerror or str(error),
                fix="Free disk space on the device",
            ) from None

    def set_aside(self, workflow: str, why: str) -> None:
        """Keep a workflow's assignment, with the reason, where nothing resumes it."""
        path = self._path(workflow)
        try:
            aside = {"why": why, "assignment": msgspec.Raw(path.read_bytes())}
            write_whole(self._aside(workflow), msgspec.json.encode(aside))
            path.unlink(missing_ok=True)
        except OSError as error:
            log.error("cannot set the assignment of %s aside on disk: %s", workflow, error)

    def forget(self, workflow: str) -> None:
        """Remove a workflow's assignment."""
        self._path(workflow).unlink(missing_ok=True)
        self._aside(workflow).unlink(missing_ok=True)
        self._last(workflow).unlink(missing_ok=True)

    def kept(self) -> list[tuple[str, Assignment]]:
        """What runs, and what ran last before it, each with what it is in words.

        Raises:
            StateDamaged: a file cannot be read, so nobody knows what it needs.
        """
        found: list[tuple[str, Assignment]] = []
        for pattern, word in (("*.json", "runs"), (f"*.json{_LAST}", "ran before")):
            for path in sorted(self._folder.glob(pattern)):
                try:
                    assignment = decode_json(path.read_bytes(), Assignment, str(path))
                except (TiermeshError, OSError) as error:
                    raise StateDamaged(
                        f"cannot determine what {path.name} needs",
                        why=str(error),
                        fix=f"Roll its workflow out again, or remove {path}",
                    ) from None
                found.append((f"{assignment.workflow} {assignment.generation} {word}", assignment))
        return found

    def _last(self, workflow: str) -> Path:
        return self._folder / f"{workflow}.json{_LAST}"

    def _aside(self, workflow: str) -> Path:
        return self._folder / f"{workflow}.json{_ASIDE}"

    def _path(self, workflow: str) -> Path:
        return self._folder / f"{workflow}.json"


class Activation:
    """One device's assignments and the steps between them, one step at a time."""

    def __init__(
        self,
        device: str,
        folder: AssignmentFolder,
        serving: ServingProcess,
        has_artifact: Callable[[str], bool],
        *,
        stopped: Callable[[], None] = lambda: None,
        credentials: wire.Credentials = wire.LOOPBACK,
    ) -> None:
        """`stopped` is called when a workflow has been stopped and forgotten."""
        self._stopped = stopped
        self._check_address = partial(wire.check_peer, credentials)
        self._folder = folder
        self._serving = serving
        self._has_artifact = has_artifact
        self._lock = asyncio.Lock()
        self._setting_aside = Background()
        self.node = Node(device)

    def prepared(self) -> list[tuple[str, Assignment]]:
        """What waits beside what runs, each with what it is in words."""
        waiting = self.node.prepared.values()
        return [(f"{a.workflow} {a.generation} is prepared", a) for a in waiting]

    async def resume(self) -> list[str]:
        """Serve what was committed before a restart; returns what could not be resumed, in words."""
        failures: list[str] = []
        # One lock around both steps: a newer generation may be offered meanwhile, and must wait.
        async with self._lock:
            for workflow, assignment in self._folder.load().items():
                try:
                    await self._prepare(assignment, _unreported)
                    await self._commit(workflow, assignment.generation)
                except Exception as error:  # noqa: BLE001 - one assignment must not keep the others from being served
                    why = str(error) if isinstance(error, TiermeshError) else repr(error)
                    failures.append(f"{workflow}, generation {assignment.generation}: {why}")
        return [*self._folder.unreadable, *failures]

    def set_aside_soon(self, workflow: str, generation: int, why: str) -> None:
        """As `set_aside`, once the step that is under way has ended."""
        self._setting_aside.start(
            self.set_aside(workflow, generation, why), f"{workflow} is set aside"
        )

    async def set_aside(self, workflow: str, generation: int, why: str) -> None:
        """Do not serve a generation any more, also after a restart: it ended the worker. No older one comes back."""
        async with self._lock:
            running = self.node.committed.get(workflow)
            if running is None or running.generation != generation:
                return
            await asyncio.to_thread(self._folder.set_aside, workflow, why)
            self.node = nodes.stop(self.node, workflow, generation)

    async def prepare(self, assignment: Assignment, report: Report) -> None:
        """Prepare a generation beside what runs; on any error what runs is untouched.

        Asking again for what is prepared, or for what runs, changes nothing.
        """
        async with self._lock:
            waiting = self.node.prepared.get(assignment.workflow)
            if assignment in (waiting, self.node.committed.get(assignment.workflow)):
                return
            await self._prepare(assignment, report)

    async def commit(self, workflow: str, generation: int) -> None:
        """Serve the prepared generation. It is on disk before the worker switches."""
        async with self._lock:
            await self._commit(workflow, generation)

    async def _prepare(self, assignment: Assignment, report: Report) -> None:
        nodes.check_prepare(self.node, assignment, self._has_artifact)
        nodes.check_peers(assignment, self._check_address)
        replaced = self.node.prepared.get(assignment.workflow)
        if replaced is not None:
            await self._serving.abort(replaced.workflow, replaced.generation)
            self.node = nodes.abort(self.node, replaced.workflow, replaced.generation)
        try:
            await self._serving.prepare(assignment, report)
        except BaseException:
            # Half a generation must not stay in the worker, also when the caller hangs up.
            await asyncio.shield(self._serving.abort(assignment.workflow, assignment.generation))
            raise
        self.node = nodes.prepared(self.node, assignment)

    async def _commit(self, workflow: str, generation: int) -> None:
        after = nodes.commit(self.node, workflow, generation)
        if after is self.node:
            return
        await asyncio.to_thread(self._folder.keep, after.committed[workflow])
        await self._serving.commit(workflow, generation)
        self.node = after

    async def abort(self, workflow: str, generation: int) -> None:
        """Forget a prepared generation."""
        async with self._lock:
            after = nodes.abort(self.node, workflow, generation)
            if after is not self.node:
                await self._serving.abort(workflow, generation)
                self.node = after

    async def stop(self, workflow: str, generation: int) -> None:
        """Stop a workflow and forget its assignment."""
        async with self._lock:
            after = nodes.stop(self.node, workflow, generation)
            for waiting in [self.node.prepared.get(workflow)]:
                if waiting is not None:
                    await self._serving.abort(workflow, waiting.generation)
            if workflow in self.node.committed:
                await self._serving.stop(workflow)
            await asyncio.to_thread(self._folder.forget, workflow)
            self.node = after
        self._stopped()

    async def stand_by(self, assignment: Assignment) -> None:
        """Keep the replicas of an assignment loaded that may come, so that it is then prepared at once.

        No step waits for this, and it waits for none: a rollout must not be late because of what may never come.
        """
        nodes.check_standby(self.node, assignment, self._has_artifact)
        await self._serving.stand_by(assignment)


def _unreported(_step: str, _replica: str, _seconds: float) -> None:
    pass
