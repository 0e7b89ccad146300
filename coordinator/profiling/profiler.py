"""Having a device measure a variant: push what it lacks, follow it, check what it measured."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio

from coordinator.artifacts.distribution import Distribution
from coordinator.artifacts.transfer import PathOf
from coordinator.fleet.events import Event, ProfileFailed, ProfileMeasured
from coordinator.fleet.instructions import Instruction, Measure
from coordinator.fleet.profile_text import summary
from coordinator.fleet.state import Device
from coordinator.journal.reconcile import Recording
from coordinator.profiling.schedule import ProfilingOutlook, to_beat
from coordinator.progress import Progress, Report, Transfer
from coordinator.sessions.channels import Channels, next_of
from tiermesh import limits, wire
from tiermesh.documents.profile import Profile
from tiermesh.documents.reading import decode_json, encode_json
from tiermesh.documents.variant import Variant
from tiermesh.errors import DigestMismatch, TiermeshError, Unreachable
from tiermesh.v1 import profiling_pb2, profiling_pb2_grpc

SILENCE_S: Final = 120.0
"""A device that measures says something at least this often; one slow batch may take a while."""
_NEARLY: Final = 0.99
"""Only the profile itself is the end of a measurement."""


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """How thoroughly to measure. No `threads` means the device's own setting.

    A setting is repeated until the half width of the mean's 95 % interval is below `interval` of the
    mean, at least `min_repeats` and at most `max_repeats` times, and all of a variant within
    `time_limit_s`. What is certain to be slower than a variant that is at least as accurate is repeated less.
    """

    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    threads: tuple[int, ...] = ()
    time_limit_s: float = 20.0
    interval: float = 0.05
    min_repeats: int = 5
    max_repeats: int = 200


class Profiler:
    """The work of profiling: carries out `Measure`, and tells what was measured or why it was not."""

    def __init__(
        self,
        keeper: Recording,
        channels: Channels,
        distribution: Distribution,
        variants: Mapping[str, Variant],
        path_of: PathOf,
        *,
        now: Callable[[], float],
        options: ProfileOptions,
        report: Report,
        outlook: ProfilingOutlook,
        better: Mapping[str, frozenset[str]],
    ) -> None:
        self._keeper = keeper
        self._channels = channels
        self._distribution = distribution
        self._variants = variants
        self._path_of = path_of
        self._now = now
        self._options = options
        self._report = report
        self._outlook = outlook
        self._better = better
        # What one measurement needs is kept until the next begins.
        self._numbers = itertools.count(1)

    async def __call__(self, instruction: Instruction) -> Sequence[Event]:
        """Have a device measure a variant; its failure is an event, not an exception."""
        assert isinstance(instruction, Measure)  # noqa: S101 - only these are desired
        device = self._keeper.fleet.devices[instruction.device]
        variant = self._variants[instruction.variant_digest]
        subject = f"{variant.model}/{variant.name}"

        def progress(done: float, doing: str, transfer: Transfer | None = None) -> None:
            tally = self._outlook.tally(self._keeper.fleet, device.id)
            self._report(Progress(device.name, subject, done, doing, transfer, tally))

        def moved(transfer: Transfer) -> None:
            doing = f"fetch from {transfer.source}" if transfer.source else "push"
            progress(0.0, f"{doing} {transfer.done:.0%}", transfer)

        try:
            await self._distribution.bring(
                device,
                variant.artifacts,
                self._path_of,
                keep_for="a measurement",
                generation=next(self._numbers),
                moved=moved,
            )
            profile = await measure(
                self._channels.to(device.address, wire.agent(device.id)),
                device,
                variant,
                options=self._options,
                to_beat=self._to_beat(device, variant),
                progress=progress,
            )
        except TiermeshError as error:
            self._outlook.ended(self._keeper.fleet, instruction, failed=True)
            progress(1.0, f"failed: {error.what}")
            return [self._failed(device, variant, str(error))]
        self._outlook.ended(self._keeper.fleet, instruction, failed=False)
        progress(1.0, summary(profile))
        return [self._measured(device, profile)]

    def _to_beat(self, device: Device, variant: Variant) -> list[float]:
        if self._options.threads:
            return []
        return to_beat(
            self._keeper.fleet.profiles.get(device.device_class, {}),
            self._better.get(variant.digest, ()),
            self._options.batch_sizes,
            device.description.fingerprint.threads,
        )

    def _measured(self, device: Device, profile: Profile) -> Event:
        tally = self._outlook.tally(self._keeper.fleet, device.id)
        return ProfileMeasured(
            at=self._now(),
            who=device.id,
            device=device.id,
            profile=profile,
            number=tally.done,
            total=tally.total,
            left_s=tally.left_s,
        )

    def _failed(self, device: Device, variant: Variant, why: str) -> Event:
        return ProfileFailed(
            at=self._now(),
            who=device.id,
            device=device.id,
            model=variant.model,
            variant=variant.name,
            variant_digest=variant.digest,
            why=why,
        )


async def measure(
    channel: grpc.aio.Channel,
    device: Device,
    variant: Variant,
    *,
    options: ProfileOptions,
    to_beat: Sequence[float] = (),
    progress: Callable[[float, str], None] = lambda _done, _doing: None,
) -> Profile:
    """Have a variant measured on a device that has its artifacts.

    `to_beat` are, for each batch size, the seconds of a variant that is at least as accurate, 0 where there is none.

    Raises:
        TiermeshError: the device did not finish, or its profile is of something else.
    """
    call = profiling_pb2_grpc.ProfilingStub(channel).Profile(
        _request(variant, options, to_beat), timeout=2 * options.time_limit_s + SILENCE_S
    )
    try:
        while True:
            event = await next_of(call, SILENCE_S)
            if event is None:
                raise Unreachable(f"{device.name} ended without a profile", peer=device.name)
            if event.WhichOneof("event") == "profile":
                return _checked(decode_json(event.profile, Profile, "a profile"), device, variant)
            progress(min(max(event.progress.done, 0.0), _NEARLY), event.progress.doing)
    except TimeoutError:
        raise Unreachable(
            f"{device.name} did not answer for {SILENCE_S:g} s while it measured",
            fix="Look at the agent's log",
            peer=device.name,
        ) from None
    except grpc.aio.AioRpcError as error:
        raise wire.raised_by(error, device.name) from None
    finally:
        call.cancel()


def _request(
    variant: Variant, options: ProfileOptions, to_beat: Sequence[float]
) -> profiling_pb2.ProfileRequest:
    return profiling_pb2.ProfileRequest(
        variant=encode_json(variant),
        batch_sizes=options.batch_sizes[: limits.PROFILE_BATCH_SIZES],
        threads=options.threads,
        time_limit_seconds=min(options.time_limit_s, limits.PROFILE_SECONDS),
        interval=options.interval,
        min_repeats=options.min_repeats,
        max_repeats=options.max_repeats,
        to_beat_seconds=to_beat[: limits.PROFILE_BATCH_SIZES],
    )


def _checked(profile: Profile, device: Device, variant: Variant) -> Profile:
    expected = (device.device_class, variant.digest)
    if (profile.device_class, profile.variant_digest) != expected:
        raise DigestMismatch(
            f"{device.name} measured something else than {variant.model}/{variant.name}",
            why="the profile is of another variant, or the device has changed",
            fix="Discover it again, then profile it: coordinator profile",
            device=device.name,
        )
    return profile
