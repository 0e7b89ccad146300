"""All ladders of a `variants` folder, and what of them is in the cache."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from msgspec import UNSET

from coordinator.variants import building
from coordinator.variants.accuracy import (
    ModelAccuracy,
    read_model_accuracy,
    read_workflow_accuracies,
)
from coordinator.variants.bundles import bundle
from coordinator.variants.cache import Cache
from coordinator.variants.ladder import LADDER_FILE, Built, Ladder, Packaged, read_ladder
from coordinator.variants.model_process import STEP_SECONDS, EvaluatedVariant, ModelProcess
from tiermesh.documents.variant import Artifact, Bundle, Variant
from tiermesh.errors import InvalidDocument


class Ladders:
    """The ladders of `directory`, with artifacts under `home`."""

    def __init__(self, directory: Path, home: Path, ladders: dict[str, Ladder]) -> None:
        self.directory = directory
        self.cache = Cache(home)
        self._ladders = ladders

    @classmethod
    def open(cls, directory: Path, home: Path) -> Ladders:
        """Read every ``<model>/ladder.toml`` of `directory`; `home` is the cache's folder, made when needed.

        Raises:
            InvalidDocument: no ladder there, or one that is wrong.
        """
        directory = directory.resolve()
        return cls(directory, home, _read_ladders(directory))

    def reload(self) -> None:
        """Read the ladder files again; see `open` for the errors, after which nothing has changed."""
        self._ladders = _read_ladders(self.directory)

    @property
    def models(self) -> list[str]:
        """The models that have a ladder."""
        return sorted(self._ladders)

    def ladder(self, model: str) -> Ladder:
        """The ladder of a model; InvalidDocument names the models there are."""
        try:
            return self._ladders[model]
        except KeyError:
            raise InvalidDocument(
                f"there is no model `{model}`",
                fix=f"Allowed: {', '.join(self.models)}",
                path="$.model",
                found=model,
                allowed=self.models,
            ) from None

    def variants(self, model: str) -> list[Variant]:
        """The variants that can be served: fetched and not dropped, in the ladder's order."""
        dropped = self.dropped(model)
        return [
            self.variant(model, name)
            for name in self.ladder(model).rungs
            if name not in dropped and self.is_fetched(model, name)
        ]

    def variant(
        self, model: str, name: str, *, instead: Mapping[str, Artifact] | None = None
    ) -> Variant:
        """One variant, dropped or not; all of its files must be fetched, but for those that are given `instead`."""
        rung = self.ladder(model).rungs[name]
        given = instead or {}
        files = {
            file: given.get(file) or self.artifact(model, f"{name}/{file}") for file in rung.files
        }
        lacking = [file for file, artifact in files.items() if artifact is None]
        if lacking:
            raise _not_fetched(model, name, lacking)
        return Variant(
            model=model,
            name=name,
            runtime=rung.runtime,
            precision=rung.precision,
            model_file=rung.model_file,
            files={file: artifact for file, artifact in files.items() if artifact is not None},
            bundle=self.stage_code(model),
            options=rung.options,
            settings=rung.settings or UNSET,
        )

    def model_process(self, *more: Path, step_seconds: float = STEP_SECONDS) -> ModelProcess:
        """A process that runs variants of the cache; `more` are folders with other files by digest."""
        return ModelProcess([self.cache.artifacts, *more], step_seconds=step_seconds)

    @contextmanager
    def running(self, model: str, name: str) -> Generator[EvaluatedVariant]:
        """A variant loaded in a process of its own; see `ModelProcess.load` for the errors."""
        with self.model_process() as process:
            yield process.load(self.variant(model, name))

    def dropped(self, model: str) -> dict[str, str]:
        """The variants that measuring dropped from the ladder, and why."""
        measured = self.measured(model)
        of_ladder = self.ladder(model).rungs
        if measured is None:
            return {}
        reasons = {name: variant.dropped for name, variant in measured.variants.items()}
        return {name: why for name, why in reasons.items() if why is not None and name in of_ladder}

    def measured(self, model: str) -> ModelAccuracy | None:
        """What was measured of the model's variants alone; None where nothing was."""
        return read_model_accuracy(self.ladder(model).stage.parent)

    def is_stale(self, model: str, name: str) -> bool:
        """Whether the variant was measured with other weights or other stage code than it has now."""
        measured, rung = self.measured(model), self.ladder(model).rungs[name]
        if measured is None or name not in measured.variants:
            return False
        weights = rung.files[rung.model_file].artifact.digest if rung.model_file else None
        then = (measured.variants[name].model_file, measured.stage_code)
        return then != (weights, self.stage_code(model).artifact.digest)

    def stage_code(self, model: str) -> Bundle:
        """The stage code that all variants of the model share."""
        return bundle(self.ladder(model).stage, self.cache.home)

    def missing(self, model: str) -> list[str]:
        """The variants that are still to be fetched; dropped ones are not."""
        dropped = self.dropped(model)
        names = self.ladder(model).rungs
        return [n for n in names if n not in dropped and not self.is_fetched(model, n)]

    def is_fetched(self, model: str, name: str) -> bool:
        """Whether every file of the variant is in the cache."""
        files = self.ladder(model).rungs[name].files
        return all(self.artifact(model, f"{name}/{file}") is not None for file in files)

    def artifact(self, model: str, reference: str) -> Artifact | None:
        """The artifact of ``variant/file``, when it is in the cache."""
        source = self.ladder(model).file(reference)
        if self.cache.has(source.artifact):
            return source.artifact
        if isinstance(source, Packaged) or source.exact:
            return None
        key = self.build_key(model, source)
        build = self.cache.build(key) if key is not None else None
        return build.artifact if build is not None else None

    def build_key(self, model: str, built: Built) -> str | None:
        """What the cache knows a build by; None while an input is missing."""
        here = self._inputs(model, built)
        complete = len(here) == len(built.inputs)
        return building.build_key(self.directory, built, here) if complete else None

    def input_paths(self, model: str, built: Built) -> dict[str, Path]:
        """The files that a recipe reads, by its names for them, as far as they are fetched."""
        return {name: self.path_of(a.digest) for name, a in self._inputs(model, built).items()}

    def _inputs(self, model: str, built: Built) -> dict[str, Artifact]:
        found = {name: self.artifact(model, ref) for name, ref in built.inputs.items()}
        return {name: artifact for name, artifact in found.items() if artifact is not None}

    def path_of(self, digest: str) -> Path:
        """Where the artifact lies in the cache."""
        return self.cache.path_of(digest)

    def accuracy(
        self, models: list[str], dataset: str, metric: str
    ) -> list[tuple[dict[str, str], float]]:
        """Measured end-to-end accuracy (0..1) of each combination of variants, by model.

        Raises:
            InvalidDocument: nothing was measured of these models by this metric on this data set; says what was.
        """
        there: list[str] = []
        for measured in read_workflow_accuracies(self.directory):
            covered = {model for c in measured.combinations for model in c.variants}
            wanted = (set(models), dataset, metric)
            if (covered, measured.dataset, measured.used.metric) == wanted:
                return [(dict(c.variants), c.accuracy) for c in measured.combinations]
            there.append(
                f"{measured.used.metric} on {measured.dataset} of {' + '.join(sorted(covered))}"
            )
        raise InvalidDocument(
            f"the {metric} of {' + '.join(sorted(models))} on {dataset} was never measured",
            why=f"measured so far: {'; '.join(there) or 'nothing'}",
            fix="Ask for one of these in `slo.accuracy`, or run: coordinator variants measure",
            path="$.slo.accuracy",
            found={"metric": metric, "dataset": dataset},
        )

    def __iter__(self) -> Iterator[Ladder]:
        return iter(self._ladders[model] for model in self.models)


def _read_ladders(directory: Path) -> dict[str, Ladder]:
    """The ladders of a folder, by model."""
    ladders = [read_ladder(path.parent) for path in sorted(directory.glob(f"*/{LADDER_FILE}"))]
    if not ladders:
        raise InvalidDocument(
            f"there are no ladders in {directory}",
            why=f"no folder there has a {LADDER_FILE}",
            fix="Run in a checkout, or name its `variants` folder with --variants",
            path="$",
        )
    return {ladder.model: ladder for ladder in ladders}


def _not_fetched(model: str, name: str, lacking: list[str]) -> InvalidDocument:
    return InvalidDocument(
        f"{model}/{name} is not fetched",
        why=f"missing: {', '.join(lacking)}",
        fix=f"Run: coordinator variants fetch {model}",
        path="$.variant",
    )
