"""A published profile: what a device measured, for other devices of the same class of hardware.

It is a prior there and no measurement: two devices with the same processor differ in cooling, memory and in what else
runs on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Final, Literal

from msgspec import Meta, structs

from tiermesh import ids, limits
from tiermesh.documents.fingerprint import Fingerprint
from tiermesh.documents.profile import Profile
from tiermesh.documents.reading import Document, decode_json, to_plain
from tiermesh.errors import InvalidDocument

_FOLDER_CHARS: Final = 48
_DIGEST_CHARS: Final = 8


class HardwareClass(Document, frozen=True, kw_only=True):
    """What must be equal for a device to be taken for one like that which measured.

    `features` are the processor's instruction sets, `accelerators` their kinds and names, `threads` how many a batch
    may use, `cpu_quota_cores` what cgroups let it take. The version of the runtime counts: kernels get faster.
    """

    cpu: str
    architecture: str
    cores_physical: Annotated[int, Meta(ge=1)]
    cores_logical: Annotated[int, Meta(ge=1)]
    features: list[str]
    accelerators: list[str]
    threads: Annotated[int, Meta(ge=1)]
    cpu_quota_cores: Annotated[float, Meta(gt=0)] | None = None
    runtime: str
    runtime_version: str | None = None

    @property
    def digest(self) -> str:
        """Equal for equal classes."""
        return ids.digest_value(to_plain(self))

    @property
    def label(self) -> str:
        """For people, such as ``AMD EPYC, 2 threads, onnx 1.31.1``."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        runtime = f"{self.runtime} {self.runtime_version or ''}".rstrip()
        return ", ".join([self.cpu, *self.accelerators, threads, runtime])

    @property
    def folder(self) -> str:
        """The name of its folder: its label, and the beginning of its digest, since labels may be alike."""
        words = re.sub(r"[^a-z0-9.]+", "-", self.label.lower()).strip("-.")[:_FOLDER_CHARS]
        return f"{words.rstrip('-.')}-{self.digest.removeprefix('sha256:')[:_DIGEST_CHARS]}"


class PublishedProfile(Document, frozen=True, kw_only=True):
    """A profile without the name of its device: its `device` is empty, its `device_class` that of the hardware.

    `profile.variant_digest` says of which artifacts and stage code: with others it does not hold.
    """

    schema: Literal["tiermesh.published-profile/1"] = "tiermesh.published-profile/1"
    hardware: HardwareClass
    profile: Profile


def hardware_class(fingerprint: Fingerprint, runtime: str) -> HardwareClass | None:
    """The class of a device with one of its runtimes; None where it lacks that, or where its speed is emulated."""
    if fingerprint.emulated is not None:
        return None
    found = next((r for r in fingerprint.runtimes if r.name == runtime and not r.unavailable), None)
    if found is None:
        return None
    cpu = fingerprint.cpu
    return HardwareClass(
        cpu=cpu.model,
        architecture=cpu.architecture,
        cores_physical=cpu.cores_physical,
        cores_logical=cpu.cores_logical,
        features=sorted(cpu.features),
        accelerators=sorted(f"{a.kind} {a.name}" for a in fingerprint.accelerators),
        threads=fingerprint.threads,
        cpu_quota_cores=fingerprint.cpu_quota_cores,
        runtime=runtime,
        runtime_version=found.version,
    )


def publish(profile: Profile, hardware: HardwareClass) -> PublishedProfile:
    """A profile that a device of that class measured, without what names the device."""
    plain = structs.replace(profile, device="", device_class=hardware.digest)
    return PublishedProfile(hardware=hardware, profile=plain)


def file_name(profile: Profile) -> str:
    """Of a published profile in the folder of its class."""
    return f"{profile.model}-{profile.variant}.json"


def read_published(data: bytes, what: str) -> PublishedProfile:
    """Read a published profile; `what` names the file.

    Raises:
        InvalidDocument: it is none, or cannot be a prior; `path` names the field.
    """
    published = decode_json(data, PublishedProfile, what)
    for path, why in _faults(published):
        raise InvalidDocument(f"{what} is wrong at `{path}`", why=why, path=path)
    return published


def _faults(published: PublishedProfile) -> Iterator[tuple[str, str]]:
    """The fields that are wrong, and why."""
    profile, hardware = published.profile, published.hardware
    if profile.device:
        yield "$.profile.device", "a published profile names no device"
    if profile.device_class != hardware.digest:
        yield "$.profile.device_class", f"the digest of `hardware` is {hardware.digest}"
    if profile.emulated is not None:
        yield "$.profile.emulated", "the speed of an emulated device says nothing about others"
    if (profile.runtime, profile.runtime_version) != (hardware.runtime, hardware.runtime_version):
        version = f"{hardware.runtime} {hardware.runtime_version}"
        yield "$.profile.runtime_version", f"the runtime of `hardware` is {version}"
    if not ids.is_digest(profile.variant_digest):
        yield "$.profile.variant_digest", "it is not a digest"
    if not _is_time(profile.measured_at):
        yield "$.profile.measured_at", "it is not a time such as 2026-12-01T12:00:00+00:00"
    yield from _faulty_points(profile, hardware.threads)


def _faulty_points(profile: Profile, threads: int) -> Iterator[tuple[str, str]]:
    if profile.cannot_run is not None:
        yield "$.profile.cannot_run", "what a device cannot run is no prior"
    if not any(point.threads == threads for point in profile.points):
        yield "$.profile.points", f"none has the {threads} threads of `hardware`"
    if len(profile.points) > limits.PROFILE_POINTS:
        yield "$.profile.points", f"there are more than {limits.PROFILE_POINTS}"
    for index, point in enumerate(profile.points):
        if point.interval < 0:
            yield f"$.profile.points[{index}].interval", "it is less than 0"
        seconds = point.seconds
        in_order = [seconds.p50, seconds.p75, seconds.p90, seconds.p95, seconds.p99]
        if in_order != sorted(in_order):
            yield f"$.profile.points[{index}].seconds", "the percentiles do not ascend"


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
