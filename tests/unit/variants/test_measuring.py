"""Measuring every combination of a chain, with tiny models whose answers are known."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from coordinator.variants import Fetcher, FetchProgress, Ladders
from coordinator.variants.accuracy import MeasuredWith
from coordinator.variants.measuring import AccuracyRun, chain, load_datasets
from tests.unit.variants.folders import VariantsFolder, scaling_model
from tiermesh.documents.workflow import Workflow, parse
from tiermesh.errors import InvalidDocument

MEASURED = MeasuredWith(date="2026-01-01", versions={"onnx": "1"})
EVALUATION = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Case:
    payload: dict
    right: float
    def score(self, result):
        return max(0.0, 1 - abs(result["values"][0] - self.right) / self.right)

@dataclass(frozen=True)
class Dataset:
    name: str
    model: str | None
    factor: float
    metric: str = "closeness"
    count: int = 4
    seed: int = 3
    def cases(self, count):
        return [Case({"values": [float(i + 1)]}, (i + 1) * self.factor) for i in range(count)]

DATASETS = (
    Dataset("numbers", "first", 2.0),
    Dataset("numbers", "second", 2.0),
    Dataset("products", None, 4.0),
)
"""


def workflow(**stages) -> Workflow:
    body = {
        "numbers": {"source": "files", "path": "in/", "rate": "1/s"},
        "first": {"model": "first", "from": "numbers"},
        "second": {"model": "second", "from": "first"},
        "out": {"sink": "jsonl", "path": "out", "from": "second"},
        **stages,
    }
    return parse({"workflow": "flow", "stages": body})


@pytest.fixture
def ladders(folder: VariantsFolder, home: Path) -> Ladders:
    right, near, broken = (scaling_model(factor) for factor in (2.0, 1.5, 0.0))
    variants = {
        "right": folder.packaged("right", right),
        "near": folder.packaged("near", near),
    }
    folder.model("first", variants)
    folder.model("second", {**variants, "broken": folder.packaged("broken", broken)})
    (folder.path / "flow").mkdir()
    (folder.path / "flow" / "evaluation.py").write_text(EVALUATION)
    found = Ladders.open(folder.path, home)
    Fetcher(found, registries={"pypi": folder.registry}).fetch(found.models)
    return found


def test_every_combination_of_those_that_hold(ladders: Ladders) -> None:
    datasets = load_datasets(ladders.directory, "flow")
    found = AccuracyRun(ladders, workflow(), MEASURED).run(datasets)
    second = next(m for m in found.models if m.model == "second")
    assert {v: a.accuracy["numbers"] for v, a in second.variants.items()} == {
        "right": 1.0,
        "near": 0.75,
        "broken": 0.0,
    }
    assert [v for v, a in second.variants.items() if a.dropped] == ["broken"]
    (whole,) = found.workflows
    assert {tuple(c.variants.values()): c.accuracy for c in whole.combinations} == {
        ("right", "right"): 1.0,
        ("right", "near"): 0.75,
        ("near", "right"): 0.75,
        ("near", "near"): 0.5625,
    }
    assert (whole.dataset, whole.used.count, whole.used.seed) == ("products", 4, 3)


def test_what_is_stored_is_what_is_answered(ladders: Ladders, home: Path) -> None:
    datasets = load_datasets(ladders.directory, "flow")
    AccuracyRun(ladders, workflow(), MEASURED).run(datasets).store(ladders)
    again = Ladders.open(ladders.directory, home)
    assert again.dropped("second").keys() == {"broken"}
    assert [v.name for v in again.variants("second")] == ["right", "near"]
    assert not any(again.is_stale("second", name) for name in ("right", "near", "broken"))
    code = again.ladder("second").stage / "scale.py"
    code.write_text(code.read_text() + "# another byte\n")
    assert again.is_stale("second", "right")
    table = again.accuracy(["first", "second"], "products", "closeness")
    assert ({"first": "near", "second": "near"}, 0.5625) in table
    assert len(table) == 4


def test_what_combinations_begin_with_alike_is_run_once(ladders: Ladders) -> None:
    seen: Counter[str] = Counter()

    def watch(progress: FetchProgress) -> None:
        seen[progress.task] += 1

    datasets = [d for d in load_datasets(ladders.directory, "flow") if d.model is None]
    found = AccuracyRun(ladders, workflow(), MEASURED, count=5, watch=watch).run(datasets)
    assert found.models == []
    firsts = {task: count for task, count in seen.items() if "->" not in task}
    assert firsts == {"right": 5, "near": 5}
    assert seen["right -> near"] == 5


@pytest.mark.parametrize(
    "stages",
    [
        {"second": {"map": "code/", "from": "first"}},
        {"other": {"sink": "jsonl", "path": "other", "from": "first"}},
    ],
)
def test_only_a_chain_of_models_is_measured(stages: dict[str, object]) -> None:
    with pytest.raises(InvalidDocument, match="not one chain of model stages"):
        chain(workflow(**stages))


def test_a_workflow_without_data_sets(ladders: Ladders) -> None:
    with pytest.raises(InvalidDocument, match="Allowed: flow"):
        load_datasets(ladders.directory, "stream")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n",
            "a pointer of Git LFS",
        ),
        (b"not a model", "Protobuf"),
    ],
)
def test_a_variant_that_fails_is_told_with_its_name_and_the_rest_is_measured(
    folder: VariantsFolder, home: Path, content: bytes, why: str
) -> None:
    right = folder.packaged("right", scaling_model(2.0))
    folder.model("first", {"right": right, "bad": folder.packaged("bad", content)})
    folder.model("second", {"right": right})
    (folder.path / "flow").mkdir()
    (folder.path / "flow" / "evaluation.py").write_text(EVALUATION)
    ladders = Ladders.open(folder.path, home)
    Fetcher(ladders, registries={"pypi": folder.registry}).fetch(ladders.models)
    found = AccuracyRun(ladders, workflow(), MEASURED).run(load_datasets(folder.path, "flow"))
    assert list(found.failed) == ["first/bad"]
    assert why in found.failed["first/bad"]
    assert {m.model: list(m.variants) for m in found.models} == {
        "first": ["right"],
        "second": ["right"],
    }
    assert [c.variants for c in found.workflows[0].combinations] == [
        {"first": "right", "second": "right"}
    ]
    assert found.store(ladders) == [folder.path / "second" / "accuracy.json"]


def test_stage_code_that_is_no_python_fails_each_variant_of_its_model_with_file_and_line(
    ladders: Ladders,
) -> None:
    stage = ladders.ladder("first").stage
    (code,) = stage.glob("*.py")
    code.write_text("x = 1\nclass Scale(:\n")
    found = AccuracyRun(ladders, workflow(), MEASURED).run(load_datasets(ladders.directory, "flow"))
    assert sorted(found.failed) == ["first/near", "first/right"]
    assert f"{code.name}" in found.failed["first/right"]
    assert [m.model for m in found.models] == ["second"]
    assert found.workflows == []
