"""`tiermesh.v1.Profiling`: measures on request, one variant at a time, and tells how far it is."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

import grpc.aio
from msgspec.structs import asdict, replace

from agent.profiling.measuring import measure
from agent.profiling.messages import CannotRun, MeasureProgress, MeasureRequest, MeasureResult
from agent.rollout.store import Store
from tiermesh import __version__, limits, wire
from tiermesh.documents.fingerprint import Fingerprint
from tiermesh.documents.profile import Profile
from tiermesh.documents.reading import decode_json, encode_json
from tiermesh.documents.variant import Variant
from tiermesh.errors import InvalidDocument, LimitExceeded, TiermeshError
from tiermesh.v1 import profiling_pb2 as pb
from tiermesh.v1 import profiling_pb2_grpc

log = logging.getLogger(__name__)

_BATCH_SIZES: Final = (1, 2, 4, 8)
_TIME_LIMIT_S: Final = 60.0
_INTERVAL: Final = 0.05
_MIN_REPEATS: Final = 5
_MAX_REPEATS: Final = 200
_ALIVE_SECONDS: Final = 10.0
"""At least this often a call says something, so that its silence means that it is gone."""


class ProfilingService(profiling_pb2_grpc.ProfilingServicer):
    """Measures for whoever calls; others wait while one measurement runs."""

    def __init__(
        self,
        device_id: str,
        fingerprint: Fingerprint,
        store: Store,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._device_id = device_id
        self._fingerprint = fingerprint
        self._store = store
        self._now = now
        self._free = asyncio.Lock()

    async def Profile(  # noqa: N802 - the name in the .proto
        self, request: pb.ProfileRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.ProfileEvent]:
        """Progress, and last the profile. A variant that cannot run here has one that says why."""
        try:
            ask = await asyncio.to_thread(self._ask, request)
            async for event in self._events(ask):
                yield event
        except TiermeshError as error:
            await wire.abort(context, error)

    async def _events(self, ask: MeasureRequest) -> AsyncIterator[pb.ProfileEvent]:
        said: asyncio.Queue[MeasureProgress | None] = asyncio.Queue()
        task = asyncio.create_task(self._measure(ask, said.put_nowait))
        task.add_done_callback(lambda _: said.put_nowait(None))
        last = MeasureProgress(0.0, "starting")
        try:
            while True:
                try:
                    progress = await asyncio.wait_for(said.get(), _ALIVE_SECONDS)
                except TimeoutError:
                    progress = last
                if progress is None:
                    break
                last = progress
                yield _event(progress)
            result, seconds = await task
            profile = replace(self._profile(ask.variant, result), took_seconds=seconds)
            yield pb.ProfileEvent(profile=encode_json(profile))
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _measure(
        self, ask: MeasureRequest, report: Callable[[MeasureProgress], None]
    ) -> tuple[MeasureResult | CannotRun, float]:
        if self._free.locked():
            report(MeasureProgress(0.0, "waiting for another measurement on this device"))
        async with self._free:
            begun = time.perf_counter()
            what = f"{ask.variant.model}/{ask.variant.name}"
            log.info("profiling %s", what)
            result = await measure(ask, report)
            seconds = time.perf_counter() - begun
            log.info("profiled %s in %.1f s", what, seconds)
            return result, seconds

    def _ask(self, request: pb.ProfileRequest) -> MeasureRequest:
        variant = decode_json(request.variant, Variant, "the variant")
        missing = sorted({a.digest for a in variant.artifacts if not self._store.has(a.digest)})
        if missing:
            raise TiermeshError(
                f"{len(missing)} artifacts of the variant {variant.name} are not on this device",
                why=f"missing: {', '.join(missing)}",
                fix="Push them first",
                missing=missing,
            )
        sizes = _sizes(request.batch_sizes)
        to_beat = dict(zip(request.batch_sizes, request.to_beat_seconds, strict=False))
        return MeasureRequest(
            variant=variant,
            store=str(self._store.root),
            batch_sizes=sizes,
            to_beat_seconds=[_seconds(to_beat.get(size, 0.0), "to_beat_seconds") for size in sizes],
            quota_cores=self._fingerprint.cpu_quota_cores,
            threads=self._threads(request.threads),
            time_limit_seconds=min(
                _seconds(request.time_limit_seconds, "time_limit_seconds") or _TIME_LIMIT_S,
                limits.PROFILE_SECONDS,
            ),
            interval=_seconds(request.interval, "interval") or _INTERVAL,
            min_repeats=max(request.min_repeats or _MIN_REPEATS, 2),
            max_repeats=request.max_repeats or _MAX_REPEATS,
            slowdown=self._fingerprint.emulated.slowdown if self._fingerprint.emulated else 1.0,
        )

    def _threads(self, asked: Iterable[int]) -> list[int]:
        most = self._fingerprint.cpu.cores_logical
        threads = sorted(set(asked)) or [self._fingerprint.threads]
        if not 0 < threads[0] <= threads[-1] <= most:
            raise LimitExceeded(f"cannot measure {threads} threads", why=f"there are {most} cores")
        return threads

    def _profile(self, variant: Variant, result: MeasureResult | CannotRun) -> Profile:
        versions = {r.name: r.version for r in self._fingerprint.runtimes}
        profile = Profile(
            device=self._device_id,
            device_class=self._fingerprint.device_class,
            model=variant.model,
            variant=variant.name,
            variant_digest=variant.digest,
            runtime=variant.runtime,
            runtime_version=versions.get(variant.runtime),
            agent_version=__version__,
            measured_at=datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="seconds"),
            emulated=self._fingerprint.emulated,
        )
        if isinstance(result, CannotRun):
            return replace(profile, cannot_run=result.why)
        return replace(profile, **asdict(result))


def _seconds(value: float, field: str) -> float:
    """A number of a request; one that is only compared lets through what is no number."""
    if not 0 <= value < math.inf:
        raise InvalidDocument(
            f"the request is wrong at `{field}`",
            why=f"{value} is not a finite number of at least 0",
            path=f"$.{field}",
        )
    return value


def _sizes(asked: Iterable[int]) -> list[int]:
    """The batch sizes from the smallest up, so that a large one is judged by those before it."""
    sizes = sorted(set(asked)) or list(_BATCH_SIZES)
    if (
        len(sizes) > limits.PROFILE_BATCH_SIZES
        or not 0 < sizes[0] <= sizes[-1] <= limits.BATCH_SIZE
    ):
        raise LimitExceeded(
            f"cannot measure {len(sizes)} batch sizes from {sizes[0]} to {sizes[-1]}",
            why=f"the limits are {limits.PROFILE_BATCH_SIZES} sizes up to {limits.BATCH_SIZE}",
        )
    return sizes


def _event(progress: MeasureProgress) -> pb.ProfileEvent:
    return pb.ProfileEvent(progress=pb.ProfileProgress(done=progress.done, doing=progress.doing))
