"""A small `variants` folder of our own: two models, tiny ONNX files, packages that never see a network."""

from __future__ import annotations

import hashlib
import io
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from coordinator.variants.ladder import Package

CHECKOUT = Path(__file__).parents[3]

STAGE_CODE = """
import numpy as np

class Scale:
    def __init__(self, files, options):
        self.expected = options.get("expected", 2.0)
    def items(self, payload):
        return [{"x": np.float32([value])} for value in payload["values"]]
    def result(self, payload, outputs):
        return {"values": [float(output["y"][0]) for output in outputs]}
    def samples(self):
        return [{"values": [1.0, 2.0]}]
    def check(self, index, result):
        right = [1.0 * self.expected, 2.0 * self.expected]
        return None if result["values"] == right else f"{result['values']} is not {right}"
"""

RECIPE = """
import onnx
from onnx import numpy_helper
import numpy as np

def build(inputs, output, options, progress):
    progress(1, 2)
    if options.get("fails"):
        raise ValueError("this recipe fails")
    model = onnx.load(str(inputs["model"]))
    model.doc_string = options.get("says", "")
    factor = np.float32([options.get("factor", 2.0)])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(factor, "factor"))
    onnx.save(model, str(output))
"""


def scaling_model(factor: float, doc: str = "") -> bytes:
    """An ONNX model that multiplies by `factor`."""
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 1]) for n in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "scale",
        [value[0]],
        [value[1]],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])],
    )
    opset = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8, doc_string=doc)
    return model.SerializeToString()


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip, as wheels are."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


@dataclass
class FakeRegistry:
    """Serves archives from memory and counts what was asked of it."""

    archives: dict[str, bytes] = field(default_factory=dict[str, bytes])
    failures: dict[str, Exception] = field(default_factory=dict[str, Exception])
    asked: list[str] = field(default_factory=list[str])

    def download(self, package: Package, folder: Path, seen: Callable[[int], None]) -> Path:
        self.asked.append(package.name)
        if package.name in self.failures:
            raise self.failures[package.name]
        content = self.archives[package.name]
        seen(len(content) // 2)
        path = folder / f"{package.name}-{package.version}.whl"
        path.write_bytes(content)
        return path


class VariantsFolder:
    """A `variants` folder under construction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.registry = FakeRegistry()
        recipes = path / "recipes"
        shutil.copytree(CHECKOUT / "variants" / "recipes", recipes)
        (path / "__init__.py").touch()
        (path / "data").mkdir()
        (recipes / "rescale.py").write_text(RECIPE)

    def model(self, name: str, variants: Mapping[str, str]) -> Path:
        """Add a model; `variants` are TOML bodies."""
        folder = self.path / name
        (folder / "stage").mkdir(parents=True, exist_ok=True)
        (folder / "stage" / "scale.py").write_text(STAGE_CODE)
        manifest = 'entry = "scale:Scale"\nrequires = ["numpy"]\n'
        (folder / "stage" / "stage.toml").write_text(manifest)
        head = f'model = "{name}"\nstage = "stage"\nmodel_file = "model.onnx"\n'
        bodies = [f"[variants.{n}]\n{body}" for n, body in variants.items()]
        (folder / "ladder.toml").write_text(head + "\n".join(bodies))
        return folder

    def packaged(self, package: str, content: bytes, *, sha256: str | None = None) -> str:
        """The TOML of a variant whose file lies in `package`, which the registry serves from now on."""
        archive = zipped({"inside/model.onnx": content})
        self.registry.archives[package] = archive
        return _variant(
            f'registry = "pypi", package = "{package}", version = "1.0",'
            f' package_bytes = {len(archive)}, path = "inside/model.onnx"',
            sha256 or hashlib.sha256(content).hexdigest(),
            len(content),
        )

    def built(self, source: str, content: bytes, *, exact: bool = True, options: str = "{}") -> str:
        """The TOML of a variant that `rescale` builds of variant `source`; `content` is what is recorded."""
        return _variant(
            f'recipe = "rescale", inputs = {{ model = "{source}/model.onnx" }},'
            f" exact = {str(exact).lower()}, options = {options}",
            hashlib.sha256(content).hexdigest(),
            len(content),
        )


def _variant(source: str, sha256: str, size: int) -> str:
    return (
        'runtime = "onnx"\nprecision = "fp32"\nlicence = "Apache-2.0"\n'
        f'files = {{ "model.onnx" = {{ {source}, sha256 = "{sha256}", size_bytes = {size} }} }}\n'
    )


def rescaled(content: bytes, factor: float, says: str = "") -> bytes:
    """What the recipe `rescale` makes."""
    model = onnx.load_from_string(content)
    model.doc_string = says
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.float32([factor]), "factor"))
    return model.SerializeToString()
