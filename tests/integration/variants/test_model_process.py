"""A variant runs in a process of its own for the coordinator: what it breaks is its own error, and ends there."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.variants.cache import Cache
from coordinator.variants.model_process import ModelProcess, VariantFailed
from tests.doubler import zipped
from tiermesh import ids, limits
from tiermesh.documents.variant import Artifact, Bundle, Variant
from tiermesh.errors import LimitExceeded, TiermeshError, Unsupported

CODE = """
import os, signal, sys
import numpy as np

class Code:
    def __init__(self, files, options):
        pass
    def items(self, payload):
        return [{"x": np.float32([value])} for value in payload["values"]]
    def result(self, payload, outputs):
        DOES
        return {"values": np.float32([output["y"][0] for output in outputs]), "pid": os.getpid()}
    def samples(self):
        return [{"values": [1.0]}]
    def check(self, index, result):
        return None if list(result["values"]) == [2.0] else f"twice 1 is not {result['values']}"
    def infer(self, batch):
        assert len(batch["x"]) == 1, "items are run one at a time"
        return {"y": 2 * batch["x"]}
"""
REQUEST = {"values": [1.0, 2.0, 3.0]}

Make = Callable[..., Variant]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "home")


@pytest.fixture
def make(cache: Cache) -> Make:
    def making(does: str = "pass", *, runtime: str = "python", name: str = "v1") -> Variant:
        content = zipped({"code.py": CODE.replace("DOES", does)})
        cache.add(io.BytesIO(content))
        artifact = Artifact(digest=ids.digest_bytes(content), size_bytes=len(content))
        bundle = Bundle(artifact=artifact, entry="code:Code", requires=["numpy"])
        return Variant(
            model="m", name=name, runtime=runtime, precision="fp32", files={}, bundle=bundle
        )

    return making


def test_a_request_goes_through_with_its_arrays(cache: Cache, make: Make) -> None:
    with ModelProcess([cache.artifacts]) as process:
        loaded = process.load(make())
        result = loaded.process({"values": np.float32([1, 2, 3])})
        assert loaded.self_test() is None
    np.testing.assert_array_equal(result["values"], np.float32([2, 4, 6]))
    assert result["pid"] != os.getpid()


def test_variants_follow_one_another_in_one_process(cache: Cache, make: Make) -> None:
    with ModelProcess([cache.artifacts]) as process:
        pids = {process.load(make(name=name)).process(REQUEST)["pid"] for name in ("v1", "v2")}
        before, _ = process.load(make(name="v1")), process.load(make(name="v2"))
        with pytest.raises(TiermeshError, match="m/v1 is not loaded any more"):
            before.process(REQUEST)
    assert len(pids) == 1


@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "it crashed with SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "it was killed, probably out of memory"),
        ("print('last words', file=sys.stderr); os._exit(3)", "ended with code 3: last words"),
        ("while True: pass", "it did not come to an end within 1 s"),
    ],
)
def test_a_crash_or_a_hang_is_an_error_of_its_variant(
    cache: Cache, make: Make, does: str, why: str
) -> None:
    with ModelProcess([cache.artifacts], step_seconds=1.0) as process:
        # A second for a request, and as long as it takes to start.
        broken = _loaded(process, make(does))
        with pytest.raises(VariantFailed) as caught:
            broken.process(REQUEST)
        assert "m/v1 failed while it computed" in caught.value.what
        assert why in caught.value.why
        assert caught.value.fields == {"model": "m", "variant": "v1"}
        assert why in str(_loaded(process, make(does)).self_test())
        assert _loaded(process, make(name="v2")).process(REQUEST)["pid"] > 0, "the next one runs"


def _loaded(process: ModelProcess, variant: Variant) -> Any:
    limit, process._step_seconds = process._step_seconds, 60.0
    try:
        return process.load(variant)
    finally:
        process._step_seconds = limit


def test_what_stage_code_raises_names_the_variant_and_the_place(cache: Cache, make: Make) -> None:
    with ModelProcess([cache.artifacts]) as process:
        loaded = process.load(make("raise KeyError('glyph')"))
        with pytest.raises(TiermeshError, match="m/v1: ") as caught:
            loaded.process(REQUEST)
        assert "KeyError: 'glyph' (code.py:" in caught.value.why
        assert "KeyError: 'glyph'" in str(loaded.self_test())


def test_what_stage_code_prints_is_no_answer(cache: Cache, make: Make) -> None:
    with ModelProcess([cache.artifacts]) as process:
        loaded = process.load(make("print('x' * 100_000); os.write(1, b'noise')"))
        assert list(loaded.process(REQUEST)["values"]) == [2, 4, 6]


def test_an_unknown_runtime_is_refused_with_those_there_are(cache: Cache, make: Make) -> None:
    with (
        ModelProcess([cache.artifacts]) as process,
        pytest.raises(Unsupported, match=r"m/v1: there is no runtime 'abacus'.*onnx, python"),
    ):
        process.load(make(runtime="abacus"))


def test_a_missing_artifact_is_named(make: Make, tmp_path: Path) -> None:
    with (
        ModelProcess([tmp_path]) as process,
        pytest.raises(TiermeshError, match=r"m/v1: the artifact sha256:.* is not here"),
    ):
        process.load(make())


def test_what_is_too_large_is_refused_and_the_next_request_is_answered(
    cache: Cache, make: Make
) -> None:
    too_large = (
        f"payload = None; return {{'values': np.zeros({limits.FRAME_BYTES}, 'u1'), 'b': b'x'}}"
    )
    with ModelProcess([cache.artifacts]) as process:
        loaded = process.load(make(f"if len(outputs) > 1: {too_large}"))
        with pytest.raises(LimitExceeded, match="m/v1: a payload is"):
            loaded.process(REQUEST)
        assert list(loaded.process({"values": [4.0]})["values"]) == [8]


def test_nothing_is_left_behind(
    cache: Cache, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ModelProcess([cache.artifacts]) as process:
        pid = process.load(make()).process(REQUEST)["pid"]
        assert list(tmp_path.glob("tiermesh-model-host-*"))
    assert not list(tmp_path.glob("tiermesh-model-host-*"))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
