"""A tiny variant on real ONNX Runtime: one matrix product, with stage code and a store with it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agent.rollout.store import Store
from tiermesh import ids
from tiermesh.documents.variant import Artifact, Bundle, Variant

CODE = '''
"""Doubles each row of a request; a row is an item."""
import numpy as np
from . import words


class Doubler:
    def __init__(self, files, options):
        self.files = files
        self.options = options

    def items(self, payload):
        return [{"x": np.asarray(row, dtype=np.float32)} for row in payload["rows"]]

    def result(self, payload, outputs):
        return {"rows": [one["y"] for one in outputs], "note": words.NOTE}

    def samples(self):
        return [{"rows": [[1.0, 2.0], [3.0, 4.0]]}, {"rows": [[5.0, 6.0]]}]

    def check(self, index, result):
        wanted = [[[2.0, 4.0], [6.0, 8.0]], [[10.0, 12.0]]][index]
        found = [list(map(float, row)) for row in result["rows"]]
        return None if found == wanted else f"wanted {wanted}, found {found}"
'''


def zipped(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return buffer.getvalue()


def put(store: Store, data: bytes) -> Artifact:
    digest = ids.digest_bytes(data)
    if not store.has(digest):
        with store.writer(digest, len(data)) as writer:
            writer.write(data)
            assert writer.finish()
    return Artifact(digest=digest, size_bytes=len(data))


def linear_model(weights: list[list[float]], batch: int | str = "n") -> bytes:
    """An ONNX model y = x @ weights."""
    onnx = pytest.importorskip("onnx")
    matrix = np.array(weights, dtype=np.float32)
    value = onnx.helper.make_tensor_value_info
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [value("x", real, [batch, matrix.shape[0]])],
        [value("y", real, [batch, matrix.shape[1]])],
        [onnx.numpy_helper.from_array(matrix, "w")],
    )
    opset = onnx.helper.make_opsetid("", 17)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()


def doubler(
    store: Store,
    code: str = CODE,
    *,
    model: bytes | None = None,
    runtime: str = "onnx",
    requires: tuple[str, ...] = ("numpy",),
) -> Variant:
    """Put a variant into the store; by default its stage code and model double every row."""
    model = linear_model([[2, 0], [0, 2]]) if model is None else model
    bundle = zipped({"doubler.py": code, "words.py": "NOTE = 'doubled'\n"})
    return Variant(
        model="doubler",
        name="fp32",
        runtime=runtime,
        precision="fp32",
        model_file="model.onnx",
        files={"model.onnx": put(store, model)},
        bundle=Bundle(
            artifact=put(store, bundle), entry="doubler:Doubler", requires=list(requires)
        ),
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


@pytest.fixture
def make_variant(store: Store) -> Callable[..., Variant]:
    return lambda *args, **kwargs: doubler(store, *args, **kwargs)
