"""A variant from the store to answers: stage code, ONNX Runtime, batches, self-test."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from msgspec import structs

from agent.errors import StageCodeFailed
from agent.model_host import runtimes
from agent.model_host.inference import Inference, by_shape
from agent.rollout.store import Store
from agent.serving.compute import warming
from tests.doubler import CODE, linear_model, put
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


def in_two_files(weights: list[list[float]], data: str) -> tuple[bytes, bytes]:
    """The model of `linear_model` and, as external data, its weights."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(linear_model(weights))
    (tensor,) = model.graph.initializer
    raw = tensor.raw_data
    onnx.external_data_helper.set_external_data(tensor, data, offset=0, length=len(raw))
    tensor.ClearField("raw_data")
    return model.SerializeToString(), raw


def test_a_model_in_several_files_finds_them_by_their_names(
    store: Store, make_variant: MakeVariant
) -> None:
    model, weights = in_two_files([[2, 0], [0, 2]], "weights.bin")
    whole = make_variant(model=model)
    files = {**whole.files, "weights.bin": put(store, weights)}
    inference = Inference.load(structs.replace(whole, files=files), store, threads=1)
    assert inference.self_test() is None
    assert not list(store.root.glob(".loading-*"))
    with pytest.raises(Unsupported, match=r"weights\.bin"):
        Inference.load(whole, store, threads=1)


@pytest.mark.parametrize("name", ["../weights.bin", "/tmp/weights.bin", "..", "a/b"])  # noqa: S108
def test_a_file_whose_name_leads_elsewhere_is_refused(
    store: Store, make_variant: MakeVariant, name: str
) -> None:
    whole = make_variant()
    files = {**whole.files, name: put(store, b"x" * 16)}
    with pytest.raises(Unsupported, match="it leads elsewhere"):
        Inference.load(structs.replace(whole, files=files), store, threads=1)


def test_a_pointer_of_git_lfs_is_named_as_such(load: Load) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"
    with pytest.raises(Unsupported, match=r"pointer of Git LFS.*git lfs pull"):
        load(model=pointer)


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("opset", r"Opset 99 is under development.*Current official support .* is till opset"),
        ("ir", r"Unsupported model IR version: 99, max supported IR version: \d+"),
    ],
)
def test_a_model_that_is_too_new_is_told_whole_and_with_what_to_do(
    load: Load, field: str, says: str
) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(linear_model([[2, 0], [0, 2]]))
    if field == "opset":
        model.opset_import[0].version = 99
    else:
        model.ir_version = 99
    with pytest.raises(Unsupported, match=says) as caught:
        load(model=model.SerializeToString())
    assert "onnxruntime/core" not in caught.value.why
    assert "older opset" in caught.value.fix
