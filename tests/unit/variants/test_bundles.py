"""Stage code as an artifact: its digest follows from the files alone."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.variants import bundle
from coordinator.variants.cache import Cache
from tiermesh.errors import InvalidDocument

NAMES = st.sampled_from(["stage.py", "geometry.py", "labels.txt", "deep/inner.py", "a b.txt"])
FILES = st.dictionaries(NAMES, st.binary(max_size=40), max_size=5)


def stage(folder: Path, files: dict[str, bytes], manifest: str = 'entry = "stage:Stage"') -> Path:
    for name, data in {"stage.py": b"", **files, "stage.toml": manifest.encode()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@settings(max_examples=25)
@given(files=FILES, seconds=st.integers(0, 2**31))
def test_equal_files_give_equal_bytes(files: dict[str, bytes], seconds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        first = stage(root / "first", files)
        second = stage(root / "second", dict(reversed(files.items())))
        for path in second.rglob("*"):
            os.utime(path, (seconds, seconds))
            path.chmod(0o755)
        assert bundle(first, root / "home") == bundle(second, root / "home")


@settings(max_examples=25)
@given(files=FILES, name=NAMES, extra=st.binary(min_size=1, max_size=5))
def test_another_byte_gives_another_digest(
    files: dict[str, bytes], name: str, extra: bytes
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        before = bundle(stage(root / "code", files), root / "home")
        stage(root / "code", {**files, name: files.get(name, b"") + extra})
        assert bundle(root / "code", root / "home").artifact.digest != before.artifact.digest


def test_the_cache_has_a_zip_of_the_files(tmp_path: Path, home: Path) -> None:
    code = stage(
        tmp_path / "code", {"labels.txt": b"cat"}, 'entry = "stage:Stage"\nrequires = ["cv2"]'
    )
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "stage.pyc").write_bytes(b"machine's own")
    (code / ".hidden").write_bytes(b"editor's own")
    made = bundle(code, home)
    assert (made.entry, made.requires) == ("stage:Stage", ["cv2"])
    with zipfile.ZipFile(Cache(home).path_of(made.artifact.digest)) as archive:
        assert archive.namelist() == ["labels.txt", "stage.py", "stage.toml"]
        assert archive.read("labels.txt") == b"cat"


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        ("entry", "cannot be read"),
        ('entry = "other:Stage"', "no module other.py"),
        ('entry = "stage.Stage"', "no module stage/Stage.py"),
        ('entry = "stage"', "regex"),
        ('entry = "stage:Stage"\nneeds = []', "no field `needs`"),
        ('requires = ["numpy"]', "entry"),
    ],
)
def test_a_wrong_manifest_is_named(tmp_path: Path, home: Path, manifest: str, told: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        bundle(stage(tmp_path / "code", {}, manifest), home)
    assert told in str(caught.value)


def test_a_folder_without_a_manifest(tmp_path: Path, home: Path) -> None:
    with pytest.raises(InvalidDocument, match=r"stage\.toml"):
        bundle(tmp_path, home)
