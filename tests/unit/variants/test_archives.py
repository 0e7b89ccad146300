"""Files come out of each kind of package, and a damaged package is named."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from coordinator.variants.archives import member
from tests.unit.variants.folders import zipped
from tiermesh.errors import DigestMismatch, TiermeshError, Unsupported

CONTENT = bytes(range(256)) * 64


def wheel(folder: Path) -> Path:
    path = folder / "p-1.whl"
    path.write_bytes(zipped({"inside/model": CONTENT}))
    return path


def tarball(folder: Path) -> Path:
    path = folder / "p-1.tgz"
    with tarfile.open(path, "w:gz") as tar:
        entry = tarfile.TarInfo("inside/model")
        entry.size = len(CONTENT)
        tar.addfile(entry, io.BytesIO(CONTENT))
    return path


def debian(folder: Path) -> Path:
    dpkg = shutil.which("dpkg-deb")
    if dpkg is None:
        pytest.skip("there is no dpkg-deb on this machine")
    root = folder / "root"
    (root / "DEBIAN").mkdir(parents=True)
    control = "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: n <n@n>\nDescription: d\n"
    (root / "DEBIAN" / "control").write_text(control)
    (root / "inside").mkdir()
    (root / "inside" / "model").write_bytes(CONTENT)
    path = folder / "p_1_all.deb"
    subprocess.run([dpkg, "--build", root, path], check=True, capture_output=True)
    return path


@pytest.mark.parametrize("make", [wheel, tarball, debian])
def test_a_file_comes_out(make, tmp_path: Path) -> None:
    with member(make(tmp_path), "inside/model") as content:
        assert content.read() == CONTENT


@pytest.mark.parametrize("make", [wheel, tarball, debian])
def test_a_file_that_is_not_there(make, tmp_path: Path) -> None:
    archive = make(tmp_path)
    with (
        pytest.raises(TiermeshError, match="has no file inside/other"),
        member(archive, "inside/other"),
    ):
        pass


@pytest.mark.parametrize("make", [wheel, tarball, debian])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_package_that_is_cut_off(make, keep: float, tmp_path: Path) -> None:
    archive = make(tmp_path)
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * keep)])
    with (
        pytest.raises(DigestMismatch, match="is damaged"),
        member(archive, "inside/model") as content,
    ):
        content.read()


def test_a_flipped_byte_is_found_by_the_archive(tmp_path: Path) -> None:
    archive = wheel(tmp_path)
    data = bytearray(archive.read_bytes())
    data[100] ^= 0xFF
    archive.write_bytes(data)
    with (
        pytest.raises(DigestMismatch, match="is damaged"),
        member(archive, "inside/model") as content,
    ):
        content.read()


def test_an_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="no kind of package"), member(tmp_path / "p.rar", "x"):
        pass
