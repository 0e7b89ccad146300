"""The rule that drops variants, and what is told of measured accuracy."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.variants import Ladders
from coordinator.variants.accuracy import (
    Combined,
    DatasetUsed,
    MeasuredWith,
    ModelAccuracy,
    VariantAccuracy,
    WorkflowAccuracy,
    collapsed,
)
from tests.unit.variants.folders import VariantsFolder, scaling_model
from tiermesh.documents.reading import encode_json
from tiermesh.errors import InvalidDocument

SCORES = st.dictionaries(
    st.sampled_from("abcd"),
    st.dictionaries(st.sampled_from(["clean", "degraded"]), st.floats(0, 1)),
    max_size=4,
)
MEASURED = MeasuredWith(date="2026-01-01", versions={})
USED = DatasetUsed(metric="right", count=10, seed=1)


@given(by_variant=SCORES)
def test_exactly_those_below_half_of_the_best_are_dropped(
    by_variant: dict[str, dict[str, float]],
) -> None:
    best = {
        name: max(scores.get(name, 0) for scores in by_variant.values())
        for name in ("clean", "degraded")
        if by_variant
    }
    below = {v for v, s in by_variant.items() if any(s[name] < best[name] / 2 for name in s)}
    assert collapsed(by_variant).keys() == below


@given(by_variant=SCORES)
def test_a_ladder_keeps_the_best_on_each_data_set_alone(
    by_variant: dict[str, dict[str, float]],
) -> None:
    clean = {v: {"clean": s["clean"]} for v, s in by_variant.items() if "clean" in s}
    assert not clean or collapsed(clean).keys() != clean.keys()


def test_the_reason_says_what_was_measured() -> None:
    found = collapsed({"v3": {"clean": 0.9}, "v3-int8": {"clean": 0.1}})
    assert found == {"v3-int8": "its accuracy on clean is 0.100, less than half of the 0.900 of v3"}


def dropping(folder: VariantsFolder, reason: str) -> None:
    path = folder.model(
        "scale",
        {
            "v1": folder.packaged("one", scaling_model(2.0)),
            "v2": folder.packaged("two", scaling_model(0.0)),
        },
    )
    digest = "sha256:" + "0" * 64
    document = ModelAccuracy(
        model="scale",
        measured=MEASURED,
        stage_code=digest,
        datasets={"clean": USED},
        variants={
            "v1": VariantAccuracy(model_file=digest, accuracy={"clean": 1.0}),
            "v2": VariantAccuracy(model_file=digest, accuracy={"clean": 0.0}, dropped=reason),
            "gone": VariantAccuracy(model_file=digest, accuracy={"clean": 0.0}, dropped=reason),
        },
    )
    (path / "accuracy.json").write_bytes(encode_json(document))


def test_a_dropped_variant_is_neither_offered_nor_missed(
    folder: VariantsFolder, home: Path
) -> None:
    dropping(folder, "it reads nothing")
    ladders = Ladders.open(folder.path, home)
    assert ladders.dropped("scale") == {"v2": "it reads nothing"}
    assert ladders.missing("scale") == ["v1"]


def test_accuracy_of_combinations(folder: VariantsFolder, home: Path) -> None:
    folder.model("scale", {"v1": folder.packaged("one", scaling_model(2.0))})
    (folder.path / "flow").mkdir()
    document = WorkflowAccuracy(
        workflow="flow",
        dataset="signs",
        used=USED,
        measured=MEASURED,
        stage_code={},
        combinations=[
            Combined(variants={"a": "v1", "b": "v1"}, accuracy=0.75, interval=0.1),
            Combined(variants={"a": "v1", "b": "v2"}, accuracy=0.5, interval=0.1),
        ],
    )
    (folder.path / "flow" / "accuracy.json").write_bytes(encode_json(document))
    ladders = Ladders.open(folder.path, home)
    assert ladders.accuracy(["b", "a"], "signs", "right") == [
        ({"a": "v1", "b": "v1"}, 0.75),
        ({"a": "v1", "b": "v2"}, 0.5),
    ]
    for models, dataset, metric in (
        (["a"], "signs", "right"),
        (["a", "b"], "lines", "right"),
        (["a", "b"], "signs", "speed"),
    ):
        with pytest.raises(InvalidDocument, match=r"measured so far: right on signs of a \+ b"):
            ladders.accuracy(models, dataset, metric)


def test_nothing_measured(folder: VariantsFolder, home: Path) -> None:
    folder.model("scale", {"v1": folder.packaged("one", scaling_model(2.0))})
    with pytest.raises(InvalidDocument, match="measured so far: nothing"):
        Ladders.open(folder.path, home).accuracy(["scale"], "signs", "right")
