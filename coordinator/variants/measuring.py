"""Measures how right variants are: each alone, and every combination of a workflow end to end.

What to measure on comes from ``variants/<workflow>/evaluation.py``: its `DATASETS` (see `Dataset`).
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import sys
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, cast

from msgspec import structs

from coordinator.variants.accuracy import (
    ACCURACY_FILE,
    Combined,
    DatasetUsed,
    MeasuredWith,
    ModelAccuracy,
    VariantAccuracy,
    WorkflowAccuracy,
    collapsed,
)
from coordinator.variants.fetching import FetchProgress, Watch
from coordinator.variants.ladders import Ladders
from coordinator.variants.model_process import STEP_SECONDS
from tiermesh.documents.reading import encode_json
from tiermesh.documents.workflow import Model, Sink, Source, Workflow
from tiermesh.errors import InvalidDocument, TiermeshError

EVALUATION_FILE: Final = "evaluation.py"
_DIGITS: Final = 4
_CHARS: Final = 1_000

Payload = Mapping[str, Any]


class Case(Protocol):
    """One input and how right (0..1) the result for it is."""

    @property
    def payload(self) -> dict[str, Any]:
        """What goes into the first stage."""
        ...

    def score(self, result: Payload) -> float:
        """How right what came out of the last stage is."""
        ...


class Dataset(Protocol):
    """Inputs with known answers, made by chance from `seed`; `model` is None for a whole workflow."""

    @property
    def name(self) -> str:
        """As workflows ask for it."""
        ...

    @property
    def metric(self) -> str:
        """What the score is called."""
        ...

    @property
    def model(self) -> str | None:
        """The model that it measures alone."""
        ...

    @property
    def count(self) -> int:
        """How many cases there are, unless asked for another number."""
        ...

    @property
    def seed(self) -> int:
        """What the cases follow from."""
        ...

    def cases(self, count: int) -> Sequence[Case]:
        """The first `count` cases."""
        ...


class AccuracyResults(NamedTuple):
    """What was measured, ready to be stored. `failed` says why a variant (``model/variant``) could not be."""

    models: list[ModelAccuracy]
    workflows: list[WorkflowAccuracy]
    failed: dict[str, str]

    def store(self, ladders: Ladders) -> list[Path]:
        """Write each `accuracy.json` beside its ladder or workflow; returns where.

        Where a variant failed, its model and the combinations are not stored: what was measured before is whole.
        """
        broken = {name.partition("/")[0] for name in self.failed}
        documents: dict[Path, ModelAccuracy | WorkflowAccuracy] = {
            ladders.ladder(m.model).stage.parent: m for m in self.models if m.model not in broken
        }
        if not broken:
            documents |= {ladders.directory / w.workflow: w for w in self.workflows}
        for folder, document in documents.items():
            (folder / ACCURACY_FILE).write_bytes(encode_json(document))
        return [folder / ACCURACY_FILE for folder in documents]


def load_datasets(directory: Path, workflow: str) -> list[Dataset]:
    """The data sets that a workflow is measured on; InvalidDocument where it has none."""
    path = directory / workflow / EVALUATION_FILE
    spec = importlib.util.spec_from_file_location(f"_evaluation_{workflow}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        known = sorted(p.parent.name for p in directory.glob(f"*/{EVALUATION_FILE}"))
        raise InvalidDocument(
            f"the workflow {workflow} cannot be measured",
            why=f"there is no {workflow}/{EVALUATION_FILE} in {directory}",
            fix=f"Allowed: {', '.join(known) or 'none'}",
            path="$.workflow",
            found=workflow,
        )
    if str(directory.parent) not in sys.path:
        sys.path.insert(0, str(directory.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return list(cast("Sequence[Dataset]", module.DATASETS))


class AccuracyRun:
    """One run of measuring `workflow`; `count` overrides how many cases each data set has."""

    def __init__(
        self,
        ladders: Ladders,
        workflow: Workflow,
        measured: MeasuredWith,
        *,
        count: int | None = None,
        watch: Watch = lambda _: None,
        step_seconds: float = STEP_SECONDS,
    ) -> None:
        self._ladders = ladders
        self._workflow = workflow
        self._models = chain(workflow)
        self._process = ladders.model_process(step_seconds=step_seconds)
        self._libraries: dict[str, str] = {}
        self._measured = measured
        self._count = count
        self._watch = watch
        self._failed: dict[str, str] = {}

    def run(self, datasets: Sequence[Dataset]) -> AccuracyResults:
        """Measure every variant on the data sets of its model, then all combinations of those that hold.

        All variants must be fetched, those that were dropped before too. A model that no data set is for keeps the
        variants that were dropped of it before. A variant that fails is left out from then on, and told in `failed`.
        """
        with self._process:
            return self._run(datasets)

    def _run(self, datasets: Sequence[Dataset]) -> AccuracyResults:
        measured = [
            self._model(model, of_model)
            for model in dict.fromkeys(self._models)
            if (of_model := [d for d in datasets if d.model == model])
        ]
        dropped = {model: set(self._ladders.dropped(model)) for model in self._models}
        for found in measured:
            dropped[found.model] = {v for v, m in found.variants.items() if m.dropped is not None}
        whole = [d for d in datasets if d.model is None]
        combined = [self._combinations(d, dropped) for d in whole]
        return AccuracyResults(
            [found for found in measured if found.variants],
            [found for found in combined if found.combinations],
            self._failed,
        )

    @contextmanager
    def _one(self, model: str, variant: str) -> Generator[None]:
        """Whatever one variant raises is noted of it, so that the others are measured."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - stage code and models may raise anything
            name = f"{model}/{variant}"
            self._failed[name] = _in_words(error).removeprefix(f"{name}: ")

    def _has_failed(self, model: str, variant: str) -> bool:
        return f"{model}/{variant}" in self._failed

    def _model(self, model: str, datasets: Sequence[Dataset]) -> ModelAccuracy:
        scores: dict[str, dict[str, float]] = {v: {} for v in self._ladders.ladder(model).rungs}
        for dataset in datasets:
            cases = dataset.cases(self._count or dataset.count)
            for variant, of_variant in scores.items():
                if self._has_failed(model, variant):
                    continue
                task = f"{model}/{variant} on {dataset.name}"
                with self._one(model, variant):
                    payloads = self._apply(model, variant, [case.payload for case in cases], task)
                    results = [c.score(r) for c, r in zip(cases, payloads, strict=True)]
                    of_variant[dataset.name] = round(statistics.fmean(results), _DIGITS)
        scores = {v: found for v, found in scores.items() if not self._has_failed(model, v)}
        dropped = collapsed(scores)
        return ModelAccuracy(
            model=model,
            measured=self._with_libraries(),
            stage_code=self._stage_code(model),
            datasets={d.name: self._used(d) for d in datasets},
            variants={
                variant: VariantAccuracy(
                    model_file=self._model_file(model, variant),
                    accuracy=accuracy,
                    dropped=dropped.get(variant),
                )
                for variant, accuracy in scores.items()
            },
        )

    def _combinations(self, dataset: Dataset, dropped: Mapping[str, set[str]]) -> WorkflowAccuracy:
        cases = dataset.cases(self._count or dataset.count)
        found: list[Combined] = []
        for variants, results in self._outcomes(
            [case.payload for case in cases], self._models, {}, dropped
        ):
            scores = [case.score(r) for case, r in zip(cases, results, strict=True)]
            found.append(
                Combined(
                    variants=variants,
                    accuracy=round(statistics.fmean(scores), _DIGITS),
                    interval=round(_interval(scores), _DIGITS),
                )
            )
        return WorkflowAccuracy(
            workflow=self._workflow.workflow,
            dataset=dataset.name,
            used=self._used(dataset),
            measured=self._with_libraries(),
            stage_code={model: self._stage_code(model) for model in self._models},
            combinations=found,
        )

    def _outcomes(
        self,
        payloads: list[dict[str, Any]],
        models: Sequence[str],
        chosen: dict[str, str],
        dropped: Mapping[str, set[str]],
    ) -> Iterator[tuple[dict[str, str], list[dict[str, Any]]]]:
        """Every combination with what comes out of it. What combinations begin with alike is run once."""
        if not models:
            yield chosen, payloads
            return
        model, *rest = models
        for variant in self._ladders.ladder(model).rungs:
            if variant in dropped[model] or self._has_failed(model, variant):
                continue
            now = {**chosen, model: variant}
            after: list[dict[str, Any]] = []
            with self._one(model, variant):
                after = self._apply(model, variant, payloads, " -> ".join(now.values()))
            if not self._has_failed(model, variant):
                yield from self._outcomes(after, rest, now, dropped)

    def _apply(
        self, model: str, variant: str, payloads: Sequence[dict[str, Any]], task: str
    ) -> list[dict[str, Any]]:
        running = self._process.load(self._ladders.variant(model, variant))
        self._libraries[running.library] = running.library_version
        results: list[dict[str, Any]] = []
        for payload in payloads:
            results.append(running.process(payload))
            self._watch(FetchProgress(task, len(results), len(payloads), "steps"))
        return results

    def _used(self, dataset: Dataset) -> DatasetUsed:
        count = self._count or dataset.count
        return DatasetUsed(metric=dataset.metric, count=count, seed=dataset.seed)

    def _with_libraries(self) -> MeasuredWith:
        """With the versions of the libraries that ran the variants, whatever their runtimes."""
        versions = {**self._measured.versions, **self._libraries}
        return structs.replace(self._measured, versions=versions)

    def _stage_code(self, model: str) -> str:
        return self._ladders.stage_code(model).artifact.digest

    def _model_file(self, model: str, variant: str) -> str | None:
        found = self._ladders.variant(model, variant)
        return found.files[found.model_file].digest if found.model_file else None


def _in_words(error: Exception) -> str:
    """An error with its place: the last file and line where it is none of ours, for stage code has no other."""
    if isinstance(error, TiermeshError):
        return str(error)
    if isinstance(error, SyntaxError):
        where = f"{Path(error.filename or '').name}:{error.lineno}"
        return f"{type(error).__name__}: {error.msg} ({where})"
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_CHARS]}{where}"


def chain(workflow: Workflow) -> list[str]:
    """The models of a workflow that is one chain of model stages, in order; InvalidDocument for any other."""
    stages = [s for s in workflow.stages.values() if not isinstance(s, (Source, Sink))]
    models = [stage.model for stage in stages if isinstance(stage, Model)]
    branches = any(len(stage.inputs) > 1 for stage in workflow.stages.values())
    read = [u for stage in workflow.stages.values() for u in stage.inputs]
    if len(models) != len(stages) or branches or len(read) != len(set(read)):
        raise InvalidDocument(
            f"the workflow {workflow.workflow} cannot be measured end to end",
            why="it is not one chain of model stages",
            path="$.stages",
        )
    return models


def _interval(scores: Sequence[float]) -> float:
    """Half the width of the mean's 95 % confidence interval."""
    return 1.96 * statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 1.0
