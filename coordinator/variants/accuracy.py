"""Measured accuracy as it is stored beside the ladders, and the rule that drops a variant.

``variants/<model>/accuracy.json`` holds what each variant does alone, ``variants/<workflow>/accuracy.json`` what
combinations of variants do end to end. Both say what they were measured on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from tiermesh.documents.reading import Document, decode_json
from tiermesh.documents.workflow import Name

ACCURACY_FILE: Final = "accuracy.json"
COLLAPSED_BELOW: Final = 0.5
"""A variant is dropped when its accuracy on any data set is below this share of the ladder's best there."""

Fraction = Annotated[float, Meta(ge=0, le=1)]


class MeasuredWith(Document, frozen=True, kw_only=True):
    """When, and with which versions of what decides the numbers."""

    date: str
    versions: dict[str, str]


class DatasetUsed(Document, frozen=True, kw_only=True):
    """A rendered data set: `count` inputs from `seed`, scored by `metric` (mean over inputs, 1 is best)."""

    metric: Name
    count: int
    seed: int


class VariantAccuracy(Document, frozen=True, kw_only=True):
    """A variant's accuracy by data set. `model_file` is the digest of the weights that were measured, if it has any."""

    model_file: str | None
    accuracy: dict[Name, Fraction]
    dropped: str | None = None


class ModelAccuracy(Document, frozen=True, kw_only=True):
    """How right each variant of a model is by itself."""

    schema: Literal["tiermesh.model-accuracy/1"] = "tiermesh.model-accuracy/1"
    model: Name
    measured: MeasuredWith
    stage_code: str
    datasets: dict[Name, DatasetUsed]
    variants: dict[Name, VariantAccuracy]


class Combined(Document, frozen=True, kw_only=True):
    """One choice of variants, by model, and its end-to-end accuracy: the mean, give or take `interval` (95 %)."""

    variants: dict[Name, Name]
    accuracy: Fraction
    interval: Fraction


class WorkflowAccuracy(Document, frozen=True, kw_only=True):
    """End-to-end accuracy of combinations of variants. `stage_code` is its digest, by model."""

    schema: Literal["tiermesh.workflow-accuracy/1"] = "tiermesh.workflow-accuracy/1"
    workflow: Name
    dataset: Name
    used: DatasetUsed
    measured: MeasuredWith
    stage_code: dict[Name, str]
    combinations: list[Combined]


def collapsed(by_variant: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Which variants of a ladder are to be dropped, and why.

    Args:
        by_variant: accuracy (0..1) by data set, by variant.
    """
    dropped: dict[str, str] = {}
    for dataset in sorted({name for scores in by_variant.values() for name in scores}):
        scores = {v: s[dataset] for v, s in by_variant.items() if dataset in s}
        best = max(scores, key=lambda v: scores[v])
        for variant, score in scores.items():
            if score < COLLAPSED_BELOW * scores[best]:
                reason = (
                    f"its accuracy on {dataset} is {score:.3f}, less than half of the "
                    f"{scores[best]:.3f} of {best}"
                )
                dropped.setdefault(variant, reason)
    return dropped


def read_model_accuracy(folder: Path) -> ModelAccuracy | None:
    """What was measured of the model in `folder`; None where nothing was."""
    path = folder / ACCURACY_FILE
    if not path.is_file():
        return None
    return decode_json(path.read_bytes(), ModelAccuracy, f"{folder.name}/{ACCURACY_FILE}")


def read_workflow_accuracies(directory: Path) -> list[WorkflowAccuracy]:
    """What was measured end to end of the workflows in `directory`."""
    found: list[WorkflowAccuracy] = []
    for path in sorted(directory.glob(f"*/{ACCURACY_FILE}")):
        data = path.read_bytes()
        kind = decode_json(data, _Kind, f"{path.parent.name}/{ACCURACY_FILE}").schema
        if kind == "tiermesh.workflow-accuracy/1":
            found.append(decode_json(data, WorkflowAccuracy, f"{path.parent.name}/{ACCURACY_FILE}"))
    return found


class _Kind(msgspec.Struct):
    schema: str
