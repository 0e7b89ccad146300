"""Workflows, the variants of their models, what was measured of these, and artifacts on devices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from coordinator.api.documents import (
    ArtifactDocument,
    ArtifactReport,
    DeviceArtifacts,
    FailedMeasurement,
    Measurement,
    MeasurementReport,
    encode_document,
)
from coordinator.api.handlers.base import Handlers, check_count, known_device, paged, reported
from coordinator.api.messages import progress_message
from coordinator.fleet.priors import Priors, exported
from coordinator.progress import Progress
from tiermesh import limits
from tiermesh.documents.published import PublishedProfile
from tiermesh.documents.reading import decode_json
from tiermesh.errors import InvalidDocument, LimitExceeded, TiermeshError, Unsupported
from tiermesh.v1 import coordinator_pb2 as pb

if TYPE_CHECKING:
    from coordinator.fleet import Fleet
    from coordinator.fleet.state import Device
    from coordinator.profiling.profiler import ProfileOptions
    from coordinator.progress import Report
    from tiermesh.documents.profile import Profile
    from tiermesh.documents.variant import Variant
    from tiermesh.documents.workflow import Workflow
    from tiermesh.v1.rollout_pb2 import CollectReply


class ModelHandlers(Handlers):
    """What can be served, and how fast it was measured to be."""

    async def list_workflows(self, request: pb.ListWorkflowsRequest) -> pb.ListWorkflowsReply:
        """A page of the workflows that were added, every version of each."""
        fleet = self.mesh.fleet
        page, token = paged(
            fleet.workflows.items(),
            lambda item: f"{item[1].name} {item[0]}",
            request.page_size,
            request.page_token,
        )
        known = [
            pb.KnownWorkflow(
                name=source.name,
                digest=digest,
                folder=source.folder,
                text=source.text,
                generation=_generation(fleet, source.name, digest),
            )
            for digest, source in page
        ]
        return pb.ListWorkflowsReply(workflows=known, next_page_token=token)

    async def add_workflow(self, request: pb.AddWorkflowRequest) -> pb.AddWorkflowReply:
        """Check the text of a workflow file and keep it, so that it can be planned and applied by its digest."""
        if len(request.text) > limits.API_TEXT_CHARS:
            raise LimitExceeded(
                f"a workflow of {len(request.text)} characters",
                why=f"the limit is {limits.API_TEXT_CHARS}",
            )
        workflow = await self.mesh.keep_workflow(request.text, request.folder)
        reply = pb.AddWorkflowReply(name=workflow.workflow, digest=workflow.digest)
        if self.mesh.workflows.has_ladders:
            reply.missing_profiles, reply.prior_profiles = await self._unmeasured(workflow)
        return reply

    async def remove_workflow(self, request: pb.RemoveWorkflowRequest) -> pb.RemoveWorkflowReply:
        """Know a workflow that does not run no longer."""
        mesh = self.writes()
        runs = request.name in mesh.fleet.running
        if not runs and self.keeping is not None and self.keeping.keeps(request.name):
            raise TiermeshError(
                f"`{request.name}` cannot be removed",
                why="the running coordinator keeps it served",
                fix="Start that coordinator again without it",
            )
        await mesh.workflows.remove(request.name)
        return pb.RemoveWorkflowReply()

    async def _unmeasured(self, workflow: Workflow) -> tuple[int, int]:
        """How many profiles on ready devices there are not at all, and for how many a prior stands in."""
        fleet = self.mesh.fleet
        try:
            variants = await self.mesh.variants(workflow)
        except TiermeshError:
            # What is wrong with its models is said where they are needed.
            return 0, 0
        known = Priors(fleet)
        priors = [
            known.of(device, variant.digest)
            for variant in variants
            for device in fleet.ready
            if fleet.profile(device, variant.digest) is None
        ]
        missing = priors.count(None)
        return missing, len(priors) - missing

    async def list_variants(self, request: pb.ListVariantsRequest) -> pb.ListVariantsReply:
        """A page of the variants whose artifacts are on the coordinator's machine."""
        page, token = paged(
            await self.mesh.variants(),
            lambda v: f"{v.model}/{v.name}",
            request.page_size,
            request.page_token,
        )
        return pb.ListVariantsReply(
            variants=[encode_document(variant) for variant in page], next_page_token=token
        )

    async def list_profiles(self, request: pb.ListProfilesRequest) -> pb.ListProfilesReply:
        """A page of the profiles, by the devices that they hold for."""
        found = profiles_of(self.mesh.fleet, request.variant, request.device)
        page, token = paged(found, _profile_key, request.page_size, request.page_token)
        held = [
            pb.HeldProfile(devices=names, profile=encode_document(profile))
            for names, profile in page
        ]
        return pb.ListProfilesReply(profiles=held, next_page_token=token)

    async def list_priors(self, request: pb.ListProfilesRequest) -> pb.ListPriorsReply:
        """A page of the published profiles that stand in where a device has not measured a variant."""
        found = priors_of(self.mesh.fleet, request.variant, request.device)
        page, token = paged(found, _prior_key, request.page_size, request.page_token)
        held = [pb.HeldPrior(devices=names, published=encode_document(one)) for names, one in page]
        return pb.ListPriorsReply(priors=held, next_page_token=token)

    async def import_priors(self, request: pb.ImportPriorsRequest) -> pb.ImportPriorsReply:
        """Take published profiles in: all, or none where one is wrong."""
        mesh = self.writes()
        check_count(request.published, limits.API_NAMES, "published profiles")
        published = [
            decode_json(one, PublishedProfile, "a published profile") for one in request.published
        ]
        imported = await mesh.import_priors(published)
        known = Priors(mesh.fleet)
        digests = {one.profile.variant_digest for one in published}
        used = sorted(
            device.name
            for device in mesh.fleet.devices.values()
            if any(known.of(device, digest) is not None for digest in digests)
        )
        return pb.ImportPriorsReply(imported=imported, used_for=used)

    async def export_profiles(self, request: pb.ListProfilesRequest) -> pb.ExportProfilesReply:
        """A page of the measured profiles as they can be published."""
        model, _, variant = request.variant.partition("/")
        device = _chosen(self.mesh.fleet, request.device)
        found = exported(self.mesh.fleet, model, variant, device)
        page, token = paged(
            found, lambda one: _prior_key(([], one)), request.page_size, request.page_token
        )
        return pb.ExportProfilesReply(
            published=[encode_document(one) for one in page], next_page_token=token
        )

    async def measure(self, request: pb.MeasureRequest) -> AsyncGenerator[pb.MeasureEvent]:
        """Have devices measure the variants of a workflow, or some, where that has not been done."""
        self.writes()
        devices = self._to_measure_on(list(request.devices))
        workflow = self.workflow_of_digest(request.workflow) if request.workflow else None
        variants = await self._variants(workflow, list(request.variants))
        known, begun = self.mesh.fleet.profiles, time.monotonic()

        async def work(report: Report) -> None:
            await self.mesh.profile(
                workflow if workflow is not None and not request.variants else variants,
                devices=devices,
                options=_options(request),
                again=request.again,
                report=report,
            )

        async with aclosing(reported(work)) as steps:
            async for step in steps:
                if isinstance(step, Progress):
                    yield pb.MeasureEvent(progress=progress_message(step))
        told = _measurements(
            self.mesh.fleet, devices, variants, known, seconds=time.monotonic() - begun
        )
        yield pb.MeasureEvent(measurements=encode_document(told))

    def _to_measure_on(self, names: list[str]) -> list[Device]:
        fleet = self.mesh.fleet
        check_count(names, limits.API_NAMES, "devices")
        for name in names:
            device = fleet.named(name)
            if device is None or device not in fleet.ready:
                ready = ", ".join(d.name for d in fleet.ready) or "none"
                raise InvalidDocument(
                    f"no device `{name}` is ready",
                    why=device.why if device is not None else "it was never seen",
                    fix=f"Ready: {ready}",
                )
        devices = self.devices_named(names)
        if not devices:
            raise TiermeshError("no device is ready to measure", fix="Run: coordinator devices")
        return devices

    async def _variants(self, workflow: Workflow | None, digests: list[str]) -> list[Variant]:
        variants = await self.mesh.variants(workflow)
        if not digests:
            return variants
        check_count(digests, limits.API_NAMES, "variants")
        found = [variant for variant in variants if variant.digest in digests]
        if len(found) < len(set(digests)):
            raise Unsupported(
                "the variant cannot be measured",
                why="its artifact is not on the coordinator's machine",
                fix="Fetch it: coordinator variants fetch",
            )
        return found

    async def list_artifacts(self, request: pb.ListArtifactsRequest) -> pb.ListArtifactsReply:
        """What lies on devices and what for; with `collect`, what nothing needs is freed first."""
        if request.collect:
            self.writes()
        devices = self.devices_named(list(request.devices))

        async def ask(device: Device) -> CollectReply | TiermeshError:
            try:
                return await self.mesh.distribution.link(device).collect(free=request.collect)
            except TiermeshError as error:
                return error

        answers = await asyncio.gather(*(ask(device) for device in devices))
        told = {d.name: a for d, a in zip(devices, answers, strict=True)}
        replies = {name: a for name, a in told.items() if not isinstance(a, TiermeshError)}
        if request.collect:
            freed = sum(reply.freed_bytes for reply in replies.values())
            on = ", ".join(replies) or "no device"
            await self.mesh.note(f"freed {freed} bytes of artifacts on {on}")
        document = ArtifactReport(
            devices={name: _artifacts(reply) for name, reply in replies.items()},
            failures={n: _plain(a) for n, a in told.items() if isinstance(a, TiermeshError)},
        )
        return pb.ListArtifactsReply(artifacts=encode_document(document))


def _plain(error: TiermeshError) -> dict[str, Any]:
    return {name: str(value) for name, value in error.to_dict().items()}


def _generation(fleet: Fleet, name: str, digest: str) -> int:
    running = fleet.running.get(name)
    return running.generation if running is not None and running.workflow_digest == digest else 0


def _chosen(fleet: Fleet, on: str) -> Device | None:
    """The device named `on`; None where that is empty."""
    return known_device(fleet, on) if on else None


def priors_of(fleet: Fleet, variant: str, on: str) -> list[tuple[list[str], PublishedProfile]]:
    """Priors with the names of the devices that have not measured the variant, and so use them.

    Raises:
        InvalidDocument: there is no device `on`.
    """
    device, known = _chosen(fleet, on), Priors(fleet)
    devices = [device] if device is not None else list(fleet.devices.values())
    model, _, name = variant.partition("/")
    found: list[tuple[list[str], PublishedProfile]] = []
    for of_class in fleet.priors.values():
        for digest, one in of_class.items():
            used = sorted(d.name for d in devices if known.of(d, digest) is one)
            is_wanted = (not model or one.profile.model == model) and (
                not name or one.profile.variant == name
            )
            if is_wanted and (used or device is None):
                found.append((used, one))
    return found


def _prior_key(held: tuple[list[str], PublishedProfile]) -> str:
    names, one = held
    profile = one.profile
    return (
        f"{one.hardware.label} {names} {profile.model} {profile.variant} {profile.variant_digest}"
    )


def profiles_of(fleet: Fleet, variant: str, on: str) -> list[tuple[list[str], Profile]]:
    """Profiles with the names of the devices that they hold for; `variant` is ``model`` or ``model/variant``.

    Raises:
        InvalidDocument: there is no device `on`.
    """
    device = _chosen(fleet, on)
    model, _, name = variant.partition("/")
    found: list[tuple[list[str], Profile]] = []
    for device_class, profiles in fleet.profiles.items():
        if device is not None and device.device_class != device_class:
            continue
        alike = sorted(d.name for d in fleet.devices.values() if d.device_class == device_class)
        found += [
            (alike, profile)
            for profile in profiles.values()
            if (not model or profile.model == model) and (not name or profile.variant == name)
        ]
    return found


def _profile_key(held: tuple[list[str], Profile]) -> str:
    names, profile = held
    return f"{', '.join(names)} {profile.model} {profile.variant} {profile.variant_digest}"


def _options(request: pb.MeasureRequest) -> ProfileOptions:
    from coordinator.profiling.profiler import ProfileOptions

    usual = ProfileOptions()
    for numbers in (request.batch_sizes, request.threads):
        check_count(numbers, limits.PROFILE_BATCH_SIZES, "settings")
    return ProfileOptions(
        batch_sizes=tuple(request.batch_sizes) or usual.batch_sizes,
        threads=tuple(request.threads),
        time_limit_s=request.time_limit_s or usual.time_limit_s,
    )


def _measurements(
    fleet: Fleet,
    devices: list[Device],
    variants: list[Variant],
    before: Mapping[str, Mapping[str, Profile]],
    *,
    seconds: float,
) -> MeasurementReport:
    """What is known of the variants on the devices, and how much of it is new."""
    found = [(d, v, fleet.profile(d, v.digest)) for d in devices for v in variants]
    failures = fleet.profile_failures
    measured = sum(
        profile is not before.get(device_class, {}).get(digest)
        for device_class, of_class in fleet.profiles.items()
        for digest, profile in of_class.items()
    )
    return MeasurementReport(
        profiles=[_measurement(d, v, p) for d, v, p in found if p is not None],
        failed=[
            FailedMeasurement(
                device=d.name,
                model=v.model,
                variant=v.name,
                why=failures.get(d.id, {}).get(v.digest, "not measured"),
            )
            for d, v, p in found
            if p is None
        ],
        measured=measured,
        seconds=seconds,
    )


def _measurement(device: Device, variant: Variant, profile: Profile) -> Measurement:
    points = [p for p in profile.points if p.threads == device.description.fingerprint.threads]
    best = max(points, key=lambda p: p.items_per_second, default=None)
    one = next((p for p in points if p.batch_size == 1), None)
    return Measurement(
        device=device.name,
        model=variant.model,
        variant=variant.name,
        cannot_run=profile.cannot_run,
        measured_on=profile.device,
        measured_at=profile.measured_at,
        one_p50_ms=1_000 * one.seconds.p50 if one else None,
        one_p95_ms=1_000 * one.seconds.p95 if one else None,
        items_per_second=best.items_per_second if best else None,
        best_batch_size=best.batch_size if best else None,
        interval=max((p.interval for p in points), default=None),
        disturbed=profile.disturbed,
        other_load_cores=profile.other_load_cores,
        cpu_quota_cores=profile.cpu_quota_cores,
        took_seconds=profile.took_seconds,
        peak_memory_bytes=profile.peak_memory_bytes,
        emulated_slowdown=profile.emulated.slowdown if profile.emulated else None,
    )


def _artifacts(reply: CollectReply) -> DeviceArtifacts:
    left = [one for one in reply.artifacts if not one.freed]
    return DeviceArtifacts(
        artifacts=[
            ArtifactDocument(
                digest=one.digest,
                bytes=one.bytes,
                complete=one.complete,
                needed_for=one.needed_for,
                used_at=one.used_at,
                freed=one.freed,
            )
            for one in reply.artifacts
        ],
        unneeded_bytes=sum(one.bytes for one in left if not one.needed_for),
        freed_bytes=reply.freed_bytes,
        free_bytes=reply.free_bytes,
    )
