"""A variant from the store to answers: stage code, ONNX Runtime, batches, self-test."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest

from agent.errors import StageCodeFailed
from agent.model_host import runtimes
from agent.model_host.inference import Inference, by_shape
from agent.rollout.store import Store
from agent.serving.compute import warming
from tests.doubler import CODE, linear_model
from tiermesh.documents.variant import Variant
from tiermesh.errors import TiermeshError, Unsupported
from tiermesh.frames import tensor_of

MakeVariant = Callable[..., Variant]
Load = Callable[..., Inference]


@pytest.fixture
def load(store: Store, make_variant: MakeVariant) -> Load:
    return lambda *args, **kwargs: Inference.load(make_variant(*args, **kwargs), store, threads=1)


def test_items_of_two_requests_share_a_batch(load: Load) -> None:
    inference = load()
    first, second = {"rows": tensor_of(np.eye(2, dtype="f4"))}, {"rows": [[7.0, 8.0]]}
    items = [*inference.prepare(first), *inference.prepare(second)]
    assert len({item.shape_key for item in items}) == 1
    outputs = inference.infer(items)
    assert inference.finish(first, outputs[:2])["note"] == "doubled"
    np.testing.assert_array_equal(inference.finish(second, outputs[2:])["rows"], [[14, 16]])


def test_items_of_other_shapes_have_other_keys(load: Load) -> None:
    one, longer = load().prepare({"rows": [[1.0, 2.0], [1.0, 2.0, 3.0]]})
    assert one.shape_key != longer.shape_key
    assert list(by_shape([one, longer, one])) == [[0, 2], [1]]


def test_a_request_without_items_is_answered(load: Load) -> None:
    assert load().process({"rows": []})["rows"] == []


def test_self_test_passes_and_names_what_fails(load: Load) -> None:
    assert load().self_test() is None
    wrong = load(model=linear_model([[3, 0], [0, 3]]))
    assert "sample 0: wanted [[2.0, 4.0]" in str(wrong.self_test())
    raising = load(CODE.replace('return {"rows"', "raise KeyError('glyph') ; return {'rows'"))
    assert "KeyError: 'glyph' (doubler.py:" in str(raising.self_test())


def test_a_model_of_fixed_batch_runs_in_steps(load: Load) -> None:
    inference = load(model=linear_model([[2, 0], [0, 2]], batch=1))
    inference.warm(batch_size=3)
    assert inference.self_test() is None


def test_a_fixed_batch_that_does_not_fit_is_an_error(load: Load) -> None:
    inference = load(model=linear_model([[2, 0], [0, 2]], batch=2))
    with pytest.raises(TiermeshError, match="fixed to 2"):
        inference.infer(inference.prepare({"rows": [[1.0, 2.0]] * 3}))


def test_what_cannot_be_loaded_is_unsupported_with_the_reason(load: Load) -> None:
    with pytest.raises(Unsupported, match="cannot load the model"):
        load(model=b"not a model")
    with pytest.raises(Unsupported, match="no runtime 'abacus'"):
        load(runtime="abacus")
    with pytest.raises(Unsupported) as caught:
        load(requires=("numpy", "no_such_module", "no.such.either"))
    assert caught.value.fields["missing"] == ["no_such_module", "no.such.either"]


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (CODE.replace("class Doubler", "class Tripler"), "no class of that name"),
        (CODE.replace("def check", "def verify"), "no method check"),
        (CODE.replace("self.files = files", "files['x']"), "KeyError: 'x' (doubler.py:9)"),
        ("import doubler_of_old", "ModuleNotFoundError"),
        ("def", "SyntaxError"),
    ],
)
def test_stage_code_that_does_not_load_says_where(load: Load, broken: str, why: str) -> None:
    with pytest.raises(StageCodeFailed) as caught:
        load(broken)
    assert why in caught.value.why


def test_two_versions_of_a_bundle_live_side_by_side(load: Load) -> None:
    old = load()
    new = load(CODE.replace("words.NOTE", "words.NOTE.upper()"))
    assert old.process({"rows": []})["note"] == "doubled"
    assert new.process({"rows": []})["note"] == "DOUBLED"


def test_a_missing_artifact_is_named(store: Store, make_variant: MakeVariant) -> None:
    variant = make_variant()
    store.remove(variant.files["model.onnx"].digest)
    with pytest.raises(TiermeshError, match="is not on this device"):
        Inference.load(variant, store, threads=1)


def test_describing_runtimes_imports_none() -> None:
    code = (
        "import sys; from agent.model_host import runtimes, inference, stage_code;"
        "found = runtimes.describe(); assert found[0].version, found;"
        "print(sorted({'onnxruntime', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "CPUExecutionProvider" in runtimes.describe()[0].providers


def test_before_it_serves_a_replica_says_what_a_batch_takes_and_does_not_wait_for_it(
    store: Store, make_variant: MakeVariant
) -> None:
    code = CODE.replace("return {", "[i * i for i in range(200_000)]\n        return {", 1)
    # The least of several: CPU time on a shared machine is only ever too long.
    seconds = [
        min(warming.measure(inference, 2, budget_s=0.2) for _ in range(5))
        for inference in (
            Inference.load(make_variant(code), store, threads=1, slowdown=slowdown)
            for slowdown in (20.0, 200.0)
        )
    ]
    assert seconds[1] / seconds[0] == pytest.approx(10, rel=0.3)


def test_measuring_leaves_a_replica_as_it_was(store: Store, make_variant: MakeVariant) -> None:
    inference = Inference.load(make_variant(), store, threads=1, slowdown=3.0)
    before = inference.now()
    warming.measure(inference, 1, budget_s=0.0)
    assert inference.now() >= before
    assert inference.self_test() is None
    assert abs(inference.now() - time.perf_counter()) < 1.0
