"""The OCR cascade as it ships: real weights, fetched and verified, read real signs."""

from __future__ import annotations

import math
import statistics
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from coordinator.variants import Ladders
from coordinator.variants.accuracy import read_workflow_accuracies
from coordinator.variants.measuring import chain, load_datasets
from tests.fetched import VARIANTS, fetched_ladders
from tiermesh.documents.workflow import Workflow, parse

MODELS = ("ocr-detect", "ocr-rotate", "ocr-recognise")


@pytest.fixture(scope="module")
def ladders() -> Ladders:
    return fetched_ladders()


@pytest.fixture(scope="module")
def workflow() -> Workflow:
    return parse(yaml.safe_load((VARIANTS / "read-signs" / "read-signs.yaml").read_text()))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", MODELS)
def test_every_variant_passes_its_self_test(ladders: Ladders, model: str) -> None:
    variants = ladders.variants(model)
    assert ladders.missing(model) == []
    with ladders.model_process() as process:
        wrong = {v.name: process.load(v).self_test() for v in variants}
    assert set(wrong.values()) == {None}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_best_combination_reads_signs(ladders: Ladders, workflow: Workflow) -> None:
    """What is stored is what comes out: a small part of the data set lies in the interval of the mean."""
    (stored,) = read_workflow_accuracies(VARIANTS)
    best = max(stored.combinations, key=lambda c: c.accuracy)
    (dataset,) = (d for d in load_datasets(VARIANTS, "read-signs") if d.name == stored.dataset)
    scores: list[float] = []
    with ExitStack() as open_processes:
        stages = [
            open_processes.enter_context(ladders.running(model, best.variants[model]))
            for model in chain(workflow)
        ]
        for case in dataset.cases(12):
            payload = case.payload
            for stage in stages:
                payload = stage.process(payload)
            scores.append(case.score(payload))
    spread = best.interval * math.sqrt(stored.used.count / len(scores))
    assert statistics.fmean(scores) >= best.accuracy - 2 * spread


@pytest.mark.parametrize("model", MODELS)
def test_what_was_measured_is_what_the_ladder_names(model: str, tmp_path: Path) -> None:
    """Weights that change must be measured again: `coordinator variants measure`."""
    ladders = Ladders.open(VARIANTS, tmp_path)
    measured = ladders.measured(model)
    assert measured is not None
    named = {n: r.files["model.onnx"].sha256 for n, r in ladders.ladder(model).rungs.items()}
    assert {n: v.model_file for n, v in measured.variants.items()} == {
        name: f"sha256:{sha256}" for name, sha256 in named.items()
    }


def test_a_variant_that_collapsed_is_dropped_with_its_reason(tmp_path: Path) -> None:
    ladders = Ladders.open(VARIANTS, tmp_path)
    assert {m: list(ladders.dropped(m)) for m in MODELS} == {
        "ocr-detect": [],
        "ocr-rotate": [],
        "ocr-recognise": ["v3-static8"],
    }
    assert "less than half" in ladders.dropped("ocr-recognise")["v3-static8"]


def test_the_ask_of_the_workflow_was_measured_and_makes_planning_interesting(
    workflow: Workflow, tmp_path: Path
) -> None:
    """Every combination of what is kept; some are good enough for the ask and some are not."""
    ladders = Ladders.open(VARIANTS, tmp_path)
    ask = workflow.slo.accuracy
    assert ask is not None
    assert ask.dataset is not None
    table = ladders.accuracy(list(MODELS), ask.dataset, ask.metric)
    kept = [len(ladders.ladder(m).rungs) - len(ladders.dropped(m)) for m in MODELS]
    assert len(table) == math.prod(kept) == 15
    accuracies = sorted(accuracy for _, accuracy in table)
    assert accuracies[0] < ask.at_least < accuracies[-1]
