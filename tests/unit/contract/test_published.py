"""Published profiles: what is accepted, and which field is named where one is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec import structs

from tiermesh import ids
from tiermesh.documents.fingerprint import Accelerator, Cpu, Emulation, Fingerprint, Runtime
from tiermesh.documents.profile import Point, Profile, Seconds
from tiermesh.documents.published import (
    PublishedProfile,
    file_name,
    hardware_class,
    publish,
    read_published,
)
from tiermesh.documents.reading import encode_json
from tiermesh.errors import InvalidDocument

PROFILES = Path(__file__).parents[3] / "profiles"
PRINT = Fingerprint(
    host="h",
    os="Linux",
    python="3.11",
    agent_version="0.1.0",
    cpu=Cpu(
        model="Cortex-A76",
        architecture="aarch64",
        cores_physical=4,
        cores_logical=4,
        features=["fp16", "asimd"],
        max_mhz=2_400.0,
    ),
    memory_bytes=8_000_000_000,
    disk_bytes=1,
    runtimes=[Runtime(name="onnx", version="1.31.1")],
    threads=4,
)
ALIKE = structs.replace(
    PRINT,
    host="another",
    os="Another Linux",
    memory_bytes=4_000_000_000,
    cpu=structs.replace(PRINT.cpu, max_mhz=2_399.0, features=["asimd", "fp16"]),
    runtimes=[*PRINT.runtimes, Runtime(name="litert", version="2.0")],
)
SECONDS = Seconds(mean=0.1, p50=0.1, p75=0.11, p90=0.12, p95=0.13, p99=0.14)


def published() -> PublishedProfile:
    hardware = hardware_class(PRINT, "onnx")
    assert hardware is not None
    point = Point(
        batch_size=1, threads=4, samples=9, seconds=SECONDS, items_per_second=10, interval=0.05
    )
    profile = Profile(
        device="secret-name",
        device_class=PRINT.device_class,
        model="ocr-detect",
        variant="v3",
        variant_digest=ids.digest_bytes(b"v3"),
        runtime="onnx",
        runtime_version="1.31.1",
        agent_version="0.1.0",
        measured_at="2026-12-01T12:00:00+00:00",
        points=[point],
    )
    return publish(profile, hardware)


def test_what_is_written_is_read_and_names_no_device() -> None:
    data = encode_json(published())
    assert read_published(data, "x.json") == published()
    assert b"secret-name" not in data
    assert PRINT.device_class.encode() not in data
    assert file_name(published().profile) == "ocr-detect-v3.json"
    assert published().hardware.folder.startswith("cortex-a76-4-threads-onnx-1.31.1-")


def test_memory_host_and_other_runtimes_do_not_matter() -> None:
    assert hardware_class(ALIKE, "onnx") == published().hardware


@pytest.mark.parametrize(
    "other",
    [
        structs.replace(PRINT, threads=2),
        structs.replace(PRINT, cpu_quota_cores=1.5),
        structs.replace(PRINT, cpu=structs.replace(PRINT.cpu, model="Cortex-A72")),
        structs.replace(PRINT, cpu=structs.replace(PRINT.cpu, features=["asimd"])),
        structs.replace(PRINT, cpu=structs.replace(PRINT.cpu, cores_physical=8)),
        structs.replace(PRINT, accelerators=[Accelerator(name="Orin", kind="gpu")]),
        structs.replace(PRINT, runtimes=[Runtime(name="onnx", version="1.20.0")]),
    ],
)
def test_what_decides_speed_is_another_class(other: Fingerprint) -> None:
    hardware = hardware_class(other, "onnx")
    assert hardware is not None
    assert hardware.digest != published().hardware.digest


@pytest.mark.parametrize(
    "other",
    [
        structs.replace(PRINT, emulated=Emulation(slowdown=2.0)),
        structs.replace(PRINT, runtimes=[]),
        structs.replace(PRINT, runtimes=[Runtime(name="onnx", unavailable="not installed")]),
    ],
)
def test_a_device_that_has_no_class(other: Fingerprint) -> None:
    assert hardware_class(other, "onnx") is None


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("schema", "tiermesh.profile/1", "$.schema"),
        ("extra", 1, "$"),
        ("hardware.threads", 0, "$.hardware.threads"),
        ("profile.device", "cam-1", "$.profile.device"),
        ("profile.device_class", ids.digest_bytes(b"x"), "$.profile.device_class"),
        ("profile.emulated", {"slowdown": 2.0}, "$.profile.emulated"),
        ("profile.runtime_version", "1.0", "$.profile.runtime_version"),
        ("profile.variant_digest", "v3", "$.profile.variant_digest"),
        ("profile.measured_at", "yesterday", "$.profile.measured_at"),
        ("profile.cannot_run", "too hot", "$.profile.cannot_run"),
        ("profile.points", [], "$.profile.points"),
        ("profile.points.0.threads", 2, "$.profile.points"),
        ("profile.points.0.interval", -1.0, "$.profile.points[0].interval"),
        ("profile.points.0.seconds.mean", 0.0, "$.profile.points[0].seconds.mean"),
        ("profile.points.0.seconds.p99", 0.01, "$.profile.points[0].seconds"),
    ],
)
def test_a_bad_file_is_one_error_with_its_name_and_the_field(
    path: str, value: object, named: str
) -> None:
    plain = json.loads(encode_json(published()))
    at = plain
    *parents, last = path.split(".")
    for step in parents:
        at = at[int(step) if step.isdecimal() else step]
    at[last] = value
    with pytest.raises(InvalidDocument) as caught:
        read_published(json.dumps(plain).encode(), "the published profile p/x.json")
    assert "p/x.json" in caught.value.what
    assert caught.value.fields["path"] == named


def test_what_is_no_json_is_told_with_the_file() -> None:
    with pytest.raises(InvalidDocument, match=r"x\.json is not JSON"):
        read_published(b"{", "x.json")


@pytest.mark.parametrize("path", sorted(PROFILES.rglob("*.json")), ids=lambda p: p.name)
def test_the_files_of_the_repository_are_in_their_places(path: Path) -> None:
    found = read_published(path.read_bytes(), path.name)
    assert path.relative_to(PROFILES) == Path(found.hardware.folder) / file_name(found.profile)
    assert encode_json(found) == path.read_bytes()


def test_there_are_some() -> None:
    assert sorted(PROFILES.rglob("*.json"))
