"""What a replica runs: a model with its stage code, or stage code alone. Called from the compute thread only.

Whatever stage code raises ends the request that it was raised for, and no other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from agent.errors import StageCodeFailed
from agent.model_host import stage_code
from agent.model_host.emulation import Dilation
from agent.model_host.inference import Artifacts, Inference
from agent.serving.aggregate_io.statefile import StateFile
from agent.serving.aggregates.folding import AggregateState
from agent.serving.batcher import Job, JobStep, QueuedItem, Work
from agent.serving.compute import warming
from agent.serving.instructions import Filtered, Outcome, Prepared, StageFailed, StageOutput
from tiermesh.arrays import arrays
from tiermesh.documents.assignment import ReplicaSpec, StageSpec
from tiermesh.errors import TiermeshError
from tiermesh.frames import Packed, pack

Outcomes: TypeAlias = list[tuple[Work, Outcome]]


class Runner(Protocol):
    """Runs the jobs of one replica."""

    def run(self, job: Job) -> Outcomes:
        """Run a job; never raises for what a request holds."""
        ...

    def warm(self, batch_size: int) -> None:
        """Make the first request as fast as the others."""
        ...

    def measure(self, batch_size: int, budget_s: float) -> float | None:
        """Mean device seconds of a batch, as it will serve; None: there is nothing to measure with."""
        ...

    def self_test(self) -> str | None:
        """None, or what is wrong."""
        ...

    def close(self) -> None:
        """Give memory back."""
        ...


def load(
    spec: ReplicaSpec,
    stage: StageSpec,
    artifacts: Artifacts,
    *,
    threads: int,
    slowdown: float,
    states: Path,
) -> Runner | None:
    """Load what a replica runs, with at most `threads` threads; None for a stage that only passes frames on.

    `states` is the file for an aggregate's state.

    Raises:
        TiermeshError: it cannot be loaded on this device.
    """
    if spec.variant is not None:
        inference = Inference.load(
            spec.variant, artifacts, threads=min(spec.threads, threads), slowdown=slowdown
        )
        return ModelRunner(inference)
    if spec.bundle is None:
        return None
    folder: Path = artifacts.unpack(spec.bundle.artifact.digest)
    dilation = Dilation(slowdown)
    code = stage_code.load(spec.bundle, folder, {}, spec.options, stage.kind)
    if stage.kind == "aggregate":
        keeper = StateFile(states) if stage_code.can_be_kept(code) else None
        return AggregateRunner(AggregateState(code, stage.name, stage.key or "", keeper), dilation)
    return CodeRunner(code, stage, dilation)


def _outcome(work: Callable[[], Outcome]) -> Outcome:
    try:
        return work()
    except TiermeshError as error:
        return StageFailed(str(error))
    except Exception as error:  # noqa: BLE001 - stage code may raise anything
        return StageFailed(str(StageCodeFailed.by(error, "the stage code failed").why))


class ModelRunner:
    """A loaded variant."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def run(self, job: Job) -> Outcomes:
        """Prepare requests, or infer a batch and finish the requests that it completes."""
        if job.step is JobStep.PREPARE:
            return [(work, _outcome(lambda work=work: self._prepare(work))) for work in job.works]
        failed = dict(self._infer(job.items))
        works = list(dict.fromkeys(item.work for item in job.items))
        return [
            (work, failed.get(work) or _outcome(lambda work=work: self._finish(work)))
            for work in works
            if work in failed or work.is_complete
        ]

    def _prepare(self, work: Work) -> Outcome:
        work.state = work.frame.payload.unpack()
        items = self._inference.prepare(work.state)
        if not items:
            return self._finish(work)
        return Prepared(tuple((item.shape_key, item) for item in items))

    def _infer(self, items: Sequence[QueuedItem]) -> Iterator[tuple[Work, Outcome]]:
        """The requests that fail; where a batch fails, each of its items is tried alone."""
        try:
            for item, output in zip(
                items, self._inference.infer([i.value for i in items]), strict=True
            ):
                item.work.outputs[item.index] = output
        except Exception as error:  # noqa: BLE001 - a model may raise anything
            if len(items) == 1:
                yield items[0].work, StageFailed(str(StageCodeFailed.by(error, "the model failed")))
                return
            for item in items:
                yield from self._infer([item])

    def _finish(self, work: Work) -> Outcome:
        outputs = [work.outputs[index] for index in range(work.items)]
        return StageOutput(pack(self._inference.finish(work.state, outputs)))

    def warm(self, batch_size: int) -> None:
        """Run the samples once at the replica's batch size."""
        self._inference.warm(batch_size)

    def measure(self, batch_size: int, budget_s: float) -> float | None:
        """Run the samples until they get no faster; see `warming.measure`."""
        return warming.measure(self._inference, batch_size, budget_s)

    def self_test(self) -> str | None:
        """Put the samples through and let the stage code check the results."""
        return self._inference.self_test()

    def close(self) -> None:
        """Give the model's memory back."""
        self._inference.close()


class CodeRunner:
    """Stage code without a model."""

    def __init__(self, code: Any, stage: StageSpec, dilation: Dilation) -> None:
        self._code = code
        self._stage = stage
        self._dilation = dilation
        self._call: Callable[[Work], Outcome] = {
            "map": self._map,
            "filter": self._filter,
            "join": self._join,
            "sink": self._deliver,
        }[stage.kind]

    def run(self, job: Job) -> Outcomes:
        """Run the stage code over each request."""
        with self._dilation.slowed():
            return [(work, _outcome(lambda work=work: self._call(work))) for work in job.works]

    def warm(self, batch_size: int) -> None:
        """There is nothing to warm: stage code without a model brings no samples."""

    def measure(self, batch_size: int, budget_s: float) -> float | None:
        """Nothing to measure with."""
        return None

    def self_test(self) -> str | None:
        """Nothing to test without samples; that it loads is all that can be known."""
        return None

    def close(self) -> None:
        """Let the stage code free what it holds, if it wants to."""
        close = getattr(self._code, "close", None)
        if callable(close):
            with contextlib.suppress(Exception):
                close()

    def _map(self, work: Work) -> Outcome:
        return StageOutput(pack(self._code.apply(_values(work.frame.payload))))

    def _filter(self, work: Work) -> Outcome:
        keeps = self._code.keep(_values(work.frame.payload))
        return StageOutput(work.frame.payload) if keeps else Filtered()

    def _join(self, work: Work) -> Outcome:
        parts = {name: _values(part) for name, part in (work.parts or {}).items()}
        return StageOutput(pack(self._code.join(parts)))

    def _deliver(self, work: Work) -> Outcome:
        self._code.deliver(work.frame.request_id, _values(work.frame.payload))
        return StageOutput(work.frame.payload)


class AggregateRunner:
    """Stage code with state by key."""

    def __init__(self, aggregate: AggregateState, dilation: Dilation) -> None:
        self.aggregate = aggregate
        self._dilation = dilation

    def run(self, job: Job) -> Outcomes:
        """Fold each request in; what has changed is kept before any output leaves."""
        with self._dilation.slowed():
            outcomes: Outcomes = [
                (work, _outcome(lambda work=work: StageOutput(self.aggregate.fold(work))))
                for work in job.works
            ]
            self.aggregate.keep()
            return outcomes

    def warm(self, batch_size: int) -> None:
        """There is nothing to warm."""

    def measure(self, batch_size: int, budget_s: float) -> float | None:
        """Nothing to measure with."""
        return None

    def self_test(self) -> str | None:
        """Nothing to test without samples."""
        return None

    def close(self) -> None:
        """Nobody uses it for now; its state stays on disk, where it is kept."""
        self.aggregate.close()


def _values(payload: Packed) -> dict[str, Any]:
    return arrays(payload.unpack())
