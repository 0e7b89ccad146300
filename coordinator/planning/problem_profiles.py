"""The devices of a planning problem and what batches take on them. Pure.

A provider's functions (of the fleet file) are there only where they are asked for, with the variants of models that a
ready device was measured with: items and bytes out are known from there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from coordinator.fleet.file import Functions
from coordinator.fleet.priors import BETWEEN_DEVICES
from coordinator.fleet.state import Device
from coordinator.planning.measured_fleet import MeasuredFleet, points_of
from coordinator.planning.service_times import deviation
from tiermesh.documents.problem import BatchTime, ProblemDevice, ProblemProfile, Serverless
from tiermesh.documents.profile import Point, Profile
from tiermesh.documents.workflow import PERCENTILES, Model

MEGABYTE: Final = 1e6
CONTENTION: Final = 1.06
"""Of devices that share a host, unless measured. Beside one that computes, batches took 1.06 to 1.2 times as long
(bench/predictions); neighbours compute less than half of the time."""
NORMAL_95: Final = 1.96
"""Half the width of a normal distribution's 95 % interval, in standard deviations."""
UNKNOWN_ERROR: Final = 0.25
"""Relative standard error of a mean of which no interval is known."""


def problem_devices(devices: Sequence[Device]) -> Iterable[ProblemDevice]:
    """The devices of the problem; those that share a host get the contention that batches meet there."""
    hosts = Counter(device.description.fingerprint.host for device in devices)
    return (_device(d, hosts[d.description.fingerprint.host] > 1) for d in devices)


def _device(device: Device, shares: bool) -> ProblemDevice:
    said = device.description
    return ProblemDevice(
        name=device.name,
        tier=said.tier,
        price_per_hour=said.price_per_hour,
        memory_mb=said.fingerprint.memory_bytes / MEGABYTE,
        usable_share=said.usable_share,
        host=said.fingerprint.host,
        contention=CONTENTION if shares else 1.0,
    )


def function_device(offer: Functions) -> ProblemDevice:
    """A provider's functions as a device without end."""
    terms = Serverless(
        usd_per_gb_second=offer.usd_per_gb_second,
        usd_per_call=offer.usd_per_call,
        cold_start=offer.cold_start,
    )
    return ProblemDevice(name=offer.name, tier=offer.tier, serverless=terms)


def function_profiles(fleet: MeasuredFleet) -> list[ProblemProfile]:
    """The device times that providers state of their functions, of variants that a device was measured with."""
    models = {n: s.model for n, s in fleet.workflow.stages.items() if isinstance(s, Model)}
    measured = [key for key, by_device in fleet.measured.items() if by_device]
    return [
        ProblemProfile(
            stage=stage,
            variant=variant,
            device=offer.name,
            batches=profile.batches,
            memory_mb=profile.memory_mb,
        )
        for offer in fleet.network.serverless
        for profile in offer.profiles
        for stage, variant in measured
        if (profile.model, profile.variant) == (models[stage], variant)
    ]


def device_profiles(fleet: MeasuredFleet) -> list[ProblemProfile]:
    """The measured device times, in seconds, with how sure they are."""
    devices = {device.name: device for device in fleet.devices}
    return [
        ProblemProfile(
            stage=stage,
            variant=variant,
            device=name,
            batches=_batches(profile, devices[name]),
            memory_mb=(profile.peak_memory_bytes or 0) / MEGABYTE,
            relative_errors=[
                prior_error(p) if label is not None else relative_error(p)
                for p in points_of(profile, devices[name])
            ],
            prior=label,
        )
        for (stage, variant), by_device in fleet.measured.items()
        for name, profile in by_device.items()
        for label in (fleet.priors.get((stage, variant, name)),)
    ]


def _batches(profile: Profile, device: Device) -> list[BatchTime]:
    return [
        BatchTime(
            batch_size=point.batch_size,
            mean=point.seconds.mean,
            percentiles={p: getattr(point.seconds, p) for p in PERCENTILES},  # pyright: ignore[reportArgumentType]
        )
        for point in points_of(profile, device)
    ]


def relative_error(point: Point) -> float:
    """The standard error of a point's mean over the mean, as wide as its 95 % interval where samples are few.

    Where the interval could not be told (1), it follows from the spread of the samples, that of different items
    included; of a single sample nothing is known.
    """
    if point.interval < 1.0:
        return point.interval / NORMAL_95
    if point.samples < 2:
        return UNKNOWN_ERROR
    seen = {name: getattr(point.seconds, name) for name in PERCENTILES}
    batch = BatchTime(batch_size=point.batch_size, mean=point.seconds.mean, percentiles=seen)  # pyright: ignore[reportArgumentType]
    error = deviation(batch) / batch.mean / math.sqrt(point.samples - 1)
    return min(error, UNKNOWN_ERROR)


def prior_error(point: Point) -> float:
    """The same of a point of a prior, for a device that did not measure it: how devices differ comes on top."""
    return math.hypot(relative_error(point), BETWEEN_DEVICES)
