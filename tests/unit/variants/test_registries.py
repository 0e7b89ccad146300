"""The registries' clients, with packages of our own and no network."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from coordinator.variants import registries
from coordinator.variants.ladder import Package
from coordinator.variants.registries import Apt, Npm, Pypi
from tests.unit.variants.folders import zipped
from tiermesh.errors import TiermeshError, Unreachable, Unsupported

METADATA = b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
WHEEL = b"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """Put a program of our own where the client would be."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / name).write_text(f"#!/bin/sh\n{script}\n")
    (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")


def ignored(done: int) -> None:
    """Progress that nobody watches."""


def test_pip_brings_a_wheel_and_installs_nothing(index: Path, into: Path) -> None:
    files = {"tiny/model.onnx": b"weights", "tiny-1.0.dist-info/METADATA": METADATA}
    files |= {"tiny-1.0.dist-info/WHEEL": WHEEL, "tiny-1.0.dist-info/RECORD": b""}
    (index / "tiny-1.0-py3-none-any.whl").write_bytes(zipped(files))
    found = Pypi().download(Package("pypi", "tiny", "1.0"), into, ignored)
    assert found == into / "tiny-1.0-py3-none-any.whl"
    assert (
        hashlib.sha256(found.read_bytes()).digest()
        == hashlib.sha256((index / found.name).read_bytes()).digest()
    )
    with pytest.raises(ModuleNotFoundError):
        __import__("tiny")


def test_a_version_that_is_not_there(index: Path, into: Path) -> None:
    with pytest.raises(TiermeshError, match="tiny 9 could not be downloaded from pypi") as caught:
        Pypi().download(Package("pypi", "tiny", "9"), into, ignored)
    assert not isinstance(caught.value, Unreachable)
    assert "No matching distribution" in caught.value.why


def test_an_index_that_does_not_answer(
    index: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setattr(registries, "_RETRIES", 1)
    with pytest.raises(Unreachable, match="does not answer: WARNING"):
        Pypi().download(Package("pypi", "tiny", "1.0"), into, ignored)


def test_a_python_without_pip(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries.sys, "executable", "/bin/false")
    registries._pip_version.cache_clear()
    with pytest.raises(Unsupported, match="ensurepip"):
        Pypi().download(Package("pypi", "tiny", "1.0"), into, ignored)
    registries._pip_version.cache_clear()


def test_npm_packs_a_tarball(into: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client(tmp_path, monkeypatch, "npm", 'echo "$@" > "$4/pose-0.5.tgz"')
    found = Npm().download(Package("npm", "@mediapipe/pose", "0.5"), into, ignored)
    assert found.read_text().startswith("pack @mediapipe/pose@0.5 --pack-destination")


def test_npm_without_a_network(into: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client(tmp_path, monkeypatch, "npm", 'echo "npm error code ENOTFOUND" >&2; exit 1')
    with pytest.raises(Unreachable, match="ENOTFOUND"):
        Npm().download(Package("npm", "pose", "0.5"), into, ignored)


def test_apt_downloads_into_the_folder(
    into: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(tmp_path, monkeypatch, "apt-get", 'echo "$@" > doc_1_all.deb')
    found = Apt().download(Package("apt", "opencv-doc", "4.6"), into, ignored)
    assert found.read_text().strip() == "download opencv-doc=4.6"


def test_a_client_that_is_not_installed(
    into: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match="there is no npm on this machine"):
        Npm().download(Package("npm", "pose", "0.5"), into, ignored)


def test_a_client_that_brings_nothing(
    into: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(tmp_path, monkeypatch, "npm", "exit 0")
    with pytest.raises(TiermeshError, match="left 0 files"):
        Npm().download(Package("npm", "pose", "0.5"), into, ignored)
