"""What a workflow's stages can be served with, from the ladders and the workflow's own stage code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from coordinator.fleet.state import Catalogue
from coordinator.planning.snapshot import AccuracyTable
from tiermesh.documents.endpoints import CallbackSink
from tiermesh.documents.variant import Bundle, Variant
from tiermesh.documents.workflow import Aggregate, Filter, Join, Map, Model, Stage, Workflow
from tiermesh.errors import InvalidDocument


class LadderSource(Protocol):
    """What the coordinator needs of `coordinator.variants.Ladders`."""

    @property
    def models(self) -> list[str]:
        """The models that have a ladder."""
        ...

    def reload(self) -> None:
        """Read the ladder files again; InvalidDocument, and nothing has changed, where one is wrong."""
        ...

    def variants(self, model: str) -> list[Variant]:
        """The variants that can be served."""
        ...

    def path_of(self, digest: str) -> Path:
        """Where an artifact lies on this machine."""
        ...

    def accuracy(
        self, models: list[str], dataset: str, metric: str
    ) -> list[tuple[dict[str, str], float]]:
        """Measured accuracy (0 to 1) per choice of variants, by model."""
        ...


def catalogue_of(
    workflow: Workflow, folder: Path, ladders: LadderSource, make_bundle: Callable[[Path], Bundle]
) -> Catalogue:
    """Variants of the model stages, and the zipped code of the stages that have code of their own.

    Raises:
        InvalidDocument: a model has no ladder, or a folder of stage code cannot be used.
    """
    variants: dict[str, dict[str, Variant]] = {}
    bundles: dict[str, Bundle] = {}
    for name, stage in workflow.stages.items():
        code = _code_folder(stage)
        if isinstance(stage, Model):
            variants[name] = {v.name: v for v in ladders.variants(_known(name, stage, ladders))}
        elif code is not None:
            bundles[name] = make_bundle(_inside(folder, code, name))
    return Catalogue(variants=variants, bundles=bundles)


def _known(name: str, stage: Model, ladders: LadderSource) -> str:
    if stage.model not in ladders.models:
        raise InvalidDocument(
            f"the workflow is wrong at `$.stages.{name}.model`",
            why=f"there is no model `{stage.model}`",
            fix=f"Allowed: {', '.join(ladders.models)}",
            path=f"$.stages.{name}.model",
            found=stage.model,
            allowed=ladders.models,
        )
    return stage.model


def _code_folder(stage: Stage) -> str | None:
    match stage:
        case Map(map=folder) | Filter(filter=folder) | Join(join=folder):
            return folder
        case Aggregate(aggregate=folder) | CallbackSink(call=folder):
            return folder
        case _:
            return None


def _inside(folder: Path, code: str, name: str) -> Path:
    path = (folder / code).resolve()
    if not path.is_dir():
        raise InvalidDocument(
            f"the stage code of `{name}` is missing",
            why=f"{path} is not a folder",
            fix="Write its folder relative to the workflow file",
            path=f"$.stages.{name}",
        )
    return path


def accuracy_of(workflow: Workflow, ladders: LadderSource) -> AccuracyTable:
    """The measured accuracies that the workflow's ask is about; none where it asks for none.

    Raises:
        InvalidDocument: the metric was not measured on that data set.
    """
    ask = workflow.slo.accuracy
    if ask is None:
        return []
    models = sorted({s.model for s in workflow.stages.values() if isinstance(s, Model)})
    if ask.dataset is None:
        raise InvalidDocument(
            "the workflow is wrong at `$.slo.accuracy.dataset`",
            why="accuracy depends on the input, so the ask must say on which data set it was measured",
            fix="Add `dataset: NAME`; see: coordinator variants list",
            path="$.slo.accuracy.dataset",
        )
    return ladders.accuracy(models, ask.dataset, ask.metric)
