"""`coordinator variants`: one JSON document, tables otherwise, exit codes, and where the cache lies."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from coordinator.cli import Commands, variants
from coordinator.cli.output import CommandOutput
from coordinator.variants import registries
from tests.unit.variants.folders import VariantsFolder, scaling_model
from tiermesh.errors import DigestMismatch, InvalidDocument


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    variants.register(Commands(parser))
    args = parser.parse_args(["variants", *words])
    return args.run(args, CommandOutput(json=args.json))


@pytest.fixture
def places(folder: VariantsFolder, home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    folder.model("scale", {"v1": folder.packaged("one", scaling_model(2.0))})
    monkeypatch.setitem(registries.REGISTRIES, "pypi", folder.registry)
    return ("--variants", str(folder.path), "--home", str(home))


def test_fetch_then_list(
    places: tuple[str, ...], capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert run("list", "--json", *places) == 0
    (row,) = json.loads(capsys.readouterr().out)["variants"]
    assert (row["variant"], row["state"], row["licence"]) == ("v1", "not fetched", "Apache-2.0")
    assert run("fetch", "--json", *places) == 0
    document = json.loads(capsys.readouterr().out)
    assert [f["variant"] for f in document["fetched"]] == ["v1"]
    assert document["home"] == str(home)
    assert run("list", "--json", *places) == 0
    assert json.loads(capsys.readouterr().out)["variants"][0]["state"] == "here"


def test_tables_for_people(places: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fetch", *places) == 0
    assert "scale/v1 model.onnx" in capsys.readouterr().out
    assert run("fetch", *places) == 0
    assert "Everything is here." in capsys.readouterr().out
    assert run("list", *places) == 0
    assert "unknown" in capsys.readouterr().out


def test_a_wrong_package_ends_the_command(places: tuple[str, ...], folder: VariantsFolder) -> None:
    folder.registry.archives["one"] = b"PK broken"
    with pytest.raises(DigestMismatch) as caught:
        run("fetch", *places)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    "words",
    [("fetch", "nope"), ("measure", "--workflow", "nope"), ("measure", "--dataset", "nope")],
)
def test_unknown_names_are_misuse(places: tuple[str, ...], words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidDocument) as caught:
        run(*words, *places)
    assert caught.value.exit_code == 2


def test_the_home_comes_from_the_environment(
    places: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIERMESH_HOME", str(tmp_path / "elsewhere"))
    assert run("fetch", *places[:2]) == 0
    assert any((tmp_path / "elsewhere" / "artifacts").rglob("*"))
