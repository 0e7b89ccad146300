"""The loaded replicas of a device, by what they are: a generation that keeps a replica keeps it loaded.

An aggregate's state goes over to the next generation with it. Replicas on standby are those of no generation: they
are loaded, warm and tested before there is one that needs them.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from agent.model_host.inference import Artifacts
from agent.model_host.process import resident_bytes
from agent.serving.aggregate_io import statefile
from agent.serving.aggregates.folding import AggregateState
from agent.serving.compute import runners
from agent.serving.compute.runners import AggregateRunner, Runner
from agent.serving.tuning.entries import Entry, ReplicaLoaded
from tiermesh import ids
from tiermesh.documents.assignment import Assignment, ReplicaSpec, StageSpec
from tiermesh.documents.reading import to_plain
from tiermesh.errors import TiermeshError

T = TypeVar("T")

Report: TypeAlias = Callable[[str, str, float], None]
"""Called with a step (`load`, `warm`, `self-test`), the replica, and the seconds it took.

The step `measure` comes with the mean device seconds of a batch of the planned size instead.
"""


STANDBY: Final = 0
"""The generation of replicas on standby: none has this number."""
_ENDS: Final = ("source", "sink", "aggregate")
"""Stages with files or state, of which a device has one at most: they do not stand by."""

_User: TypeAlias = tuple[str, int, str]


@dataclass(slots=True)
class _Loaded:
    runner: Runner
    users: set[_User] = field(default_factory=set[_User])


class Replicas:
    """Loads in a thread beside what runs. `close` is called with runners that nobody uses any more."""

    def __init__(
        self,
        artifacts: Artifacts,
        *,
        threads: int,
        slowdown: float,
        close: Callable[[Runner], None],
        write_down: Callable[[Entry], None],
        states: Path,
    ) -> None:
        self._artifacts = artifacts
        self._threads = threads
        self._slowdown = slowdown
        self._close = close
        self._write_down = write_down
        self._states = states
        self._loaded: dict[str, _Loaded] = {}
        self._keys: dict[_User, str] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tested: set[str] = set()
        self._urgent = 0

    def runner(self, workflow: str, generation: int, replica: str) -> Runner:
        """The runner of a replica that was loaded."""
        return self._loaded[self._keys[workflow, generation, replica]].runner

    async def load(self, assignment: Assignment, report: Report) -> None:
        """Load, warm and test every replica of an assignment, one after the other.

        Raises:
            TiermeshError: one cannot be served here; `replica` names it. None of the others stays, either.
        """
        self._urgent += 1
        try:
            for spec in assignment.replicas:
                await self._add(assignment, spec, report, assignment.generation)
        except BaseException:
            self.unload(assignment.workflow, assignment.generation)
            raise
        finally:
            self._urgent -= 1

    async def stand_by(self, assignment: Assignment) -> None:
        """Have replicas loaded, warm and tested that may be needed, in place of those that stood by before.

        What a rollout loads goes first: once one begins, nothing more is loaded here.

        Raises:
            TiermeshError: one cannot be served here; `replica` names it. Those before it stay.
        """
        specs = [r for r in assignment.replicas if assignment.stages[r.stage].kind not in _ENDS]
        wanted = {
            (assignment.workflow, STANDBY, r.id): _key(assignment, r, assignment.stages[r.stage])
            for r in specs
        }
        stand = [u for u in self._keys if u[:2] == (assignment.workflow, STANDBY)]
        self._release([u for u in stand if wanted.get(u) != self._keys[u]])
        for spec in specs:
            user = (assignment.workflow, STANDBY, spec.id)
            if user in self._keys or self._urgent:
                continue
            try:
                await self._add(assignment, spec, _unreported, STANDBY)
            except BaseException:
                self._release([user])
                raise

    async def _add(
        self, assignment: Assignment, spec: ReplicaSpec, report: Report, generation: int
    ) -> None:
        key = _key(assignment, spec, assignment.stages[spec.stage])
        # Who wants what another is loading has it as soon as that one.
        async with self._turns[key]:
            await self._add_alone(
                assignment, spec, report, (assignment.workflow, generation, spec.id)
            )

    async def _add_alone(
        self, assignment: Assignment, spec: ReplicaSpec, report: Report, user: _User
    ) -> None:
        stage = assignment.stages[spec.stage]
        key = _key(assignment, spec, stage)
        init_s: dict[str, float] = {}
        resident = resident_bytes()

        def note(step: str, replica: str, seconds: float) -> None:
            init_s[step] = seconds
            report(step, replica, seconds)

        if key not in self._loaded:
            runner = await self._try(
                spec.id, "load", note, partial(self._load, assignment, spec, stage)
            )
            if runner is None:
                return
            self._loaded[key] = _Loaded(runner)
        self._loaded[key].users.add(user)
        self._keys[user] = key
        if len(self._loaded[key].users) == 1:
            await self._warm(
                self._loaded[key].runner, spec, assignment.measure_seconds, note, report
            )
            await self._check(self._loaded[key].runner, key, spec, note)
        self._write_down(_loaded(user, init_s, resident))

    def _load(self, assignment: Assignment, spec: ReplicaSpec, stage: StageSpec) -> Runner | None:
        return runners.load(
            spec,
            stage,
            self._artifacts,
            threads=self._threads,
            slowdown=self._slowdown,
            states=self.state_path(assignment.workflow, stage.name, assignment.run),
        )

    def aggregate(self, workflow: str, stage: str) -> AggregateState | None:
        """The aggregate of a stage that is loaded, in whatever generation; the newest, where there are several."""
        found = [
            (generation, self._loaded[key].runner)
            for (name, generation, _), key in self._keys.items()
            if name == workflow and isinstance(self._loaded[key].runner, AggregateRunner)
        ]
        of_stage = [
            (number, runner.aggregate)
            for number, runner in found
            if isinstance(runner, AggregateRunner) and runner.aggregate.name == stage
        ]
        return max(of_stage, key=lambda one: one[0])[1] if of_stage else None

    def state_path(self, workflow: str, stage: str, run: str) -> Path:
        """The file for an aggregate's state."""
        return self._states / workflow / f"{stage}.{run}.db"

    def forget_states(self, assignment: Assignment) -> None:
        """Remove the states of aggregates that are elsewhere now, but for those that are to be taken from here."""
        here = {replica.stage for replica in assignment.replicas}
        here |= {s for s, device in assignment.formers.items() if device == assignment.device}
        kept = {self.state_path(assignment.workflow, stage, assignment.run) for stage in here}
        for path in (self._states / assignment.workflow).glob("*.db"):
            if path not in kept:
                statefile.remove(path)

    def forget_workflow(self, workflow: str) -> None:
        """Remove the states of a workflow that has been stopped."""
        for path in (self._states / workflow).glob("*.db"):
            statefile.remove(path)

    async def _check(self, runner: Runner, key: str, spec: ReplicaSpec, report: Report) -> None:
        if key in self._tested:
            # The same files, by digest, have passed in this process: what they do is known.
            return
        wrong = await self._try(spec.id, "self-test", report, runner.self_test)
        if wrong is not None:
            raise TiermeshError(f"the replica {spec.id} fails its test", why=wrong, replica=spec.id)
        self._tested.add(key)

    async def _warm(
        self, runner: Runner, spec: ReplicaSpec, budget_s: float, note: Report, report: Report
    ) -> None:
        """Make its first requests as fast as the others; where there is time, tell how fast that is."""
        if budget_s <= 0:
            await self._try(spec.id, "warm", note, partial(runner.warm, spec.batch_size))
            return
        measured = await self._try(
            spec.id, "warm", note, partial(runner.measure, spec.batch_size, budget_s)
        )
        if measured is not None:
            report("measure", spec.id, measured)

    @staticmethod
    async def _try(replica: str, step: str, report: Report, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        try:
            made = await asyncio.to_thread(work)
        except TiermeshError as error:
            error.fields["replica"] = replica
            error.what = f"the replica {replica} cannot be served: {error.what}"
            raise
        except Exception as error:
            raise TiermeshError(
                f"the replica {replica} cannot be served",
                why=f"{step}: {type(error).__name__}: {error}",
                replica=replica,
            ) from error
        report(step, replica, time.perf_counter() - began)
        return made

    def unload(self, workflow: str, generation: int) -> None:
        """Let go of a generation's replicas."""
        self._release([u for u in self._keys if u[:2] == (workflow, generation)])

    def _release(self, users: Iterable[_User]) -> None:
        for user in users:
            if user not in self._keys:
                continue
            key = self._keys.pop(user)
            loaded = self._loaded[key]
            loaded.users.discard(user)
            if not loaded.users:
                del self._loaded[key]
                self._close(loaded.runner)


def _unreported(_step: str, _replica: str, _seconds: float) -> None:
    pass


def _loaded(user: _User, init_s: dict[str, float], before_bytes: int) -> ReplicaLoaded:
    resident = resident_bytes()
    workflow, generation, replica = user
    return ReplicaLoaded(
        workflow=workflow,
        generation=generation,
        replica=replica,
        init_s=init_s,
        memory_bytes=max(resident - before_bytes, 0),
        worker_bytes=resident,
    )


def _key(assignment: Assignment, spec: ReplicaSpec, stage: StageSpec) -> str:
    """Equal for replicas that may share what is loaded: the same work for the same stage of the same run."""
    return ids.digest_value(
        [
            assignment.workflow,
            assignment.run,
            stage.name,
            stage.kind,
            to_plain(spec.variant),
            to_plain(spec.bundle),
            to_plain(spec.options),
            spec.threads,
        ]
    )
