"""Reading ladders: what is right, and one clear error for each way to be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.variants.ladder import Built, Packaged, read_ladder
from tiermesh.errors import InvalidDocument

VARIANTS = Path(__file__).parents[3] / "variants"
HEAD = 'model = "m"\nstage = "stage"\nmodel_file = "model.onnx"\n'
FACTS = 'runtime = "onnx"\nprecision = "fp32"\nlicence = "MIT"\n'
SHA = "0" * 64
IN_PACKAGE = (
    'registry = "pypi", package = "p", version = "1", package_bytes = 1, path = "a/b",'
    f' sha256 = "{SHA}", size_bytes = 1'
)
OUT_OF_V1 = (
    f'recipe = "r", inputs = {{ model = "v1/model.onnx" }}, sha256 = "{SHA}", size_bytes = 1'
)


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "ladder.toml").write_text(text)
    return tmp_path


def variant(name: str, source: str, file: str = "model.onnx") -> str:
    return f'[variants.{name}]\n{FACTS}files = {{ "{file}" = {{ {source} }} }}\n'


def test_packaged_and_built_files(tmp_path: Path) -> None:
    text = HEAD + variant("v1", IN_PACKAGE) + variant("v2", OUT_OF_V1)
    ladder = read_ladder(written(tmp_path, text))
    assert isinstance(ladder.file("v1/model.onnx"), Packaged)
    built = ladder.file("v2/model.onnx")
    assert isinstance(built, Built)
    assert built.inputs == {"model": "v1/model.onnx"}
    assert ladder.stage == tmp_path / "stage"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model =", "cannot be read"),
        (HEAD + variant("v1", IN_PACKAGE + ", colour = 1"), "no field `colour`"),
        (HEAD + variant("v1", IN_PACKAGE.replace("pypi", "ftp")), "ftp"),
        (HEAD + variant("v1", IN_PACKAGE.replace(SHA, "abc")), "sha256"),
        (HEAD + variant("v1", IN_PACKAGE.replace('"p"', '"-r evil"')), "package"),
        (HEAD + variant("v1", IN_PACKAGE, "other.onnx"), "no `model.onnx`"),
        (HEAD + variant("v1", IN_PACKAGE, "../model.onnx"), "$.variants"),
        (HEAD + variant("v2", OUT_OF_V1), "no variant has the file `v1/model.onnx`"),
        (HEAD + variant("v1", OUT_OF_V1), "v1/model.onnx is built from v1/model.onnx"),
        (HEAD + variant("v1", "path = 'x'"), "missing required field"),
    ],
)
def test_one_error_says_what_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        read_ladder(written(tmp_path, text))
    assert told in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("ocr-detect", {"v3", "v4", "v6s"}),
        ("ocr-rotate", {"v2"}),
        ("ocr-recognise", {"v3", "v4", "v6s", "v6s-dyn8", "v6s-static8", "v3-static8"}),
    ],
)
def test_the_ladders_that_ship(model: str, names: set[str]) -> None:
    ladder = read_ladder(VARIANTS / model)
    assert (ladder.model, set(ladder.rungs)) == (model, names)
    assert all(rung.licence == "Apache-2.0" for rung in ladder.rungs.values())
