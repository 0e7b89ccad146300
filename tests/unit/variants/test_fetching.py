"""Fetching: verified, resumable, and in words when something is missing. No test here needs a network."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from coordinator.variants import Fetched, Fetcher, FetchProgress, Ladders, building
from tests.unit.variants.folders import VariantsFolder, rescaled, scaling_model
from tiermesh.errors import DigestMismatch, InvalidDocument, TiermeshError, Unreachable, Unsupported

TWO, THREE = scaling_model(2.0), scaling_model(3.0)
FAILS_TEST = "{ factor = 5.0 }"


def fetch(folder: VariantsFolder, home: Path, **options) -> list[Fetched]:
    ladders = Ladders.open(folder.path, home)
    registries = {"pypi": folder.registry}
    return Fetcher(ladders, registries=registries, **options).fetch(ladders.models)


def artifacts(home: Path) -> set[str]:
    return {path.name for path in home.glob("artifacts/sha256/*")}


def test_a_fetched_variant_can_be_offered(folder: VariantsFolder, home: Path) -> None:
    folder.model("scale", {"v1": folder.packaged("one", TWO)})
    ladders = Ladders.open(folder.path, home)
    assert (ladders.missing("scale"), ladders.variants("scale")) == (["v1"], [])
    fetch(folder, home)
    assert ladders.missing("scale") == []
    (variant,) = ladders.variants("scale")
    assert ladders.path_of(variant.files["model.onnx"].digest).read_bytes() == TWO
    assert ladders.path_of(variant.bundle.artifact.digest).is_file()
    with ladders.running("scale", "v1") as running:
        assert running.self_test() is None


def test_a_package_is_downloaded_once(folder: VariantsFolder, home: Path) -> None:
    body = folder.packaged("one", TWO)
    folder.model("first", {"v1": body})
    folder.model("second", {"v1": body})
    assert {f.model for f in fetch(folder, home)} == {"first", "second"}
    assert folder.registry.asked == ["one"]
    assert fetch(folder, home) == []
    assert folder.registry.asked == ["one"]


def test_a_fetch_goes_on_where_it_stopped(folder: VariantsFolder, home: Path) -> None:
    folder.model("scale", {"v1": folder.packaged("one", TWO), "v2": folder.packaged("two", THREE)})
    folder.registry.failures["two"] = Unreachable("two could not be downloaded")
    with pytest.raises(Unreachable):
        fetch(folder, home)
    assert Ladders.open(folder.path, home).missing("scale") == ["v2"]
    folder.registry.failures.clear()
    folder.registry.asked.clear()
    assert [f.variant for f in fetch(folder, home)] == ["v2"]
    assert folder.registry.asked == ["two"]


def test_a_wrong_digest_is_refused_and_nothing_kept(folder: VariantsFolder, home: Path) -> None:
    folder.model(
        "scale", {"v1": folder.packaged("one", TWO, sha256=hashlib.sha256(b"").hexdigest())}
    )
    with pytest.raises(
        DigestMismatch, match=r"inside/model\.onnx of one-1\.0\.whl is not the file"
    ):
        fetch(folder, home)
    assert artifacts(home) == set()
    assert Ladders.open(folder.path, home).missing("scale") == ["v1"]


def test_a_wrong_size_is_refused_too(folder: VariantsFolder, home: Path) -> None:
    body = folder.packaged("one", TWO).replace(f"size_bytes = {len(TWO)} }}", "size_bytes = 7 }")
    folder.model("scale", {"v1": body})
    with pytest.raises(DigestMismatch, match="of 7 bytes was expected"):
        fetch(folder, home)
    assert artifacts(home) == set()


def test_a_damaged_package_is_refused_and_nothing_kept(folder: VariantsFolder, home: Path) -> None:
    folder.model("scale", {"v1": folder.packaged("one", TWO)})
    folder.registry.archives["one"] = folder.registry.archives["one"][:50]
    with pytest.raises(DigestMismatch, match="damaged"):
        fetch(folder, home)
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_progress_counts_bytes_and_steps(folder: VariantsFolder, home: Path) -> None:
    built = folder.built("v1", rescaled(TWO, 2.0, "built"), options='{ says = "built" }')
    folder.model("scale", {"v1": folder.packaged("one", TWO), "v2": built})
    seen: list[FetchProgress] = []
    fetch(folder, home, watch=seen.append)
    total = len(folder.registry.archives["one"])
    download = [(p.done, p.total, p.unit) for p in seen if p.task == "download one 1.0"]
    assert download == [(0, total, "bytes"), (total // 2, total, "bytes"), (total, total, "bytes")]
    steps = [(p.done, p.total) for p in seen if p.task == "build scale/v2/model.onnx"]
    assert steps == [(0, 1), (1, 2), (1, 1)]


def test_what_is_built_of_what_is_built(folder: VariantsFolder, home: Path) -> None:
    second = rescaled(TWO, 4.0)
    folder.model(
        "scale",
        {
            "v3": folder.built("v2", rescaled(second, 2.0)),
            "v2": folder.built("v1", second, options="{ factor = 4.0 }"),
            "v1": folder.packaged("one", TWO),
        },
    )
    fetch(folder, home)
    with Ladders.open(folder.path, home).running("scale", "v2") as running:
        assert running.process({"values": [3.0]}) == {"values": [12.0]}


def test_an_exact_build_must_have_its_bytes(folder: VariantsFolder, home: Path) -> None:
    wrong = folder.built("v1", b"other bytes", options='{ says = "built" }')
    folder.model("scale", {"v1": folder.packaged("one", TWO), "v2": wrong})
    with pytest.raises(DigestMismatch, match=r"scale/v2/model\.onnx, built here,"):
        fetch(folder, home)
    assert Ladders.open(folder.path, home).missing("scale") == ["v2"]


def test_other_bytes_are_accepted_by_the_self_test(folder: VariantsFolder, home: Path) -> None:
    built = folder.built("v1", b"as built elsewhere", exact=False, options='{ says = "here" }')
    folder.model("scale", {"v1": folder.packaged("one", TWO), "v2": built})
    notes = {f.variant: f.note for f in fetch(folder, home)}
    assert notes["v1"] == ""
    assert "other bytes than recorded" in notes["v2"]
    assert "accepted by its self-test" in notes["v2"]
    ladders = Ladders.open(folder.path, home)
    assert {v.name for v in ladders.variants("scale")} == {"v1", "v2"}
    assert fetch(folder, home) == []


def test_other_bytes_that_fail_the_self_test_are_refused(
    folder: VariantsFolder, home: Path
) -> None:
    built = folder.built("v1", b"as built elsewhere", exact=False, options=FAILS_TEST)
    folder.model("scale", {"v1": folder.packaged("one", TWO), "v2": built})
    with pytest.raises(DigestMismatch, match=r"\[5\.0, 10\.0\] is not \[2\.0, 4\.0\]"):
        fetch(folder, home)
    assert Ladders.open(folder.path, home).missing("scale") == ["v2"]


def test_new_tools_build_anew(
    folder: VariantsFolder, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = folder.built("v1", b"as built elsewhere", exact=False)
    folder.model("scale", {"v1": folder.packaged("one", TWO), "v2": built})
    fetch(folder, home)
    monkeypatch.setattr(building, "tool_versions", lambda: {"onnx": "99"})
    assert Ladders.open(folder.path, home).missing("scale") == ["v2"]


def test_a_failing_recipe_says_its_last_words(folder: VariantsFolder, home: Path) -> None:
    built = folder.built("v1", TWO, options="{ fails = true }")
    folder.model("scale", {"v1": folder.packaged("one", TWO), "v2": built})
    with pytest.raises(TiermeshError, match="ValueError: this recipe fails"):
        fetch(folder, home)


def test_a_missing_library_is_named(
    folder: VariantsFolder, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.model("scale", {"v1": folder.packaged("one", TWO), "v2": folder.built("v1", THREE)})
    monkeypatch.setattr(building, "TOOLS", {"no_such_module": "no-such-distribution"})
    with pytest.raises(Unsupported, match="not installed: no-such-distribution"):
        fetch(folder, home)
    assert Ladders.open(folder.path, home).missing("scale") == ["v2"]


def test_an_unknown_model_is_named(folder: VariantsFolder, home: Path) -> None:
    folder.model("scale", {"v1": folder.packaged("one", TWO)})
    with pytest.raises(InvalidDocument, match="Allowed: scale"):
        Fetcher(Ladders.open(folder.path, home)).fetch(["scael"])


def test_a_folder_without_ladders(tmp_path: Path, home: Path) -> None:
    with pytest.raises(InvalidDocument, match="--variants"):
        Ladders.open(tmp_path, home)
