"""What the messages of the API stand for in this process, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from coordinator.api.documents import encode_document
from coordinator.fleet.state import Device
from coordinator.planning.options import Options
from coordinator.planning.search_progress import SearchBounds
from coordinator.progress import Progress, Transfer, WorkCounts
from coordinator.sessions.link_quality import LinkQuality
from coordinator.telemetry.watching import Observed
from tiermesh.documents.plan import Plan
from tiermesh.v1 import coordinator_pb2 as pb

SourceBytes: TypeAlias = Mapping[str, float]
"""What a source sends per request, in bytes, by stage."""


@dataclass(frozen=True, slots=True)
class PlanToApply:
    """A plan, or the digest of one that was made here; `workflow` is the digest of one that was added."""

    plan: Plan | str
    workflow: str = ""


def problem_request(
    workflow: str,
    source_bytes: SourceBytes | None,
    without_devices: Iterable[str],
    *,
    functions: bool,
) -> pb.GetProblemRequest:
    """The request for the problem of a workflow, by its digest."""
    return pb.GetProblemRequest(
        workflow=workflow,
        source_bytes=source_bytes,
        without_devices=without_devices,
        functions=functions,
    )


def options_message(options: Options) -> pb.PlanningOptions:
    """Options of planning as a message; their watch stays here."""
    return pb.PlanningOptions(
        exclusive=options.exclusive,
        single_variant=options.single_variant,
        spares=options.spares,
        objective=options.objective.value,
        strategy=options.strategy.value,
        time_limit_s=options.time_limit_s,
        gap=options.gap,
        confidence=options.confidence,
        no_margin=not options.margin,
        frontier=options.frontier,
    )


def apply_request(
    plans: Sequence[Plan | str | PlanToApply],
    *,
    run: str = "",
    measure_s: float = 0.0,
    must_end: bool = False,
) -> pb.ApplyRequest:
    """The request to roll plans out."""
    return pb.ApplyRequest(
        plans=[_plan_message(plan) for plan in plans],
        run=run,
        measure_s=measure_s,
        must_end=must_end,
    )


def _plan_message(given: Plan | str | PlanToApply) -> pb.PlanToApply:
    named = given if isinstance(given, PlanToApply) else PlanToApply(given)
    if isinstance(named.plan, str):
        return pb.PlanToApply(digest=named.plan, workflow=named.workflow)
    return pb.PlanToApply(plan=encode_document(named.plan), workflow=named.workflow)


def standing_of(search: pb.SearchProgress) -> SearchBounds:
    """What a search knows."""
    return SearchBounds(
        objective=search.objective if search.HasField("objective") else None,
        bound=search.bound if search.HasField("bound") else None,
    )


def progress_of(message: pb.WorkProgress) -> Progress:
    """A step of progress from its message."""
    transfer, tally = message.transfer, message.tally
    return Progress(
        message.device,
        message.subject,
        message.done,
        message.doing,
        Transfer(transfer.bytes_there, transfer.bytes_needed, transfer.bytes_per_s, transfer.source)
        if message.HasField("transfer")
        else None,
        WorkCounts(
            tally.done,
            tally.total,
            tally.left_s if tally.HasField("left_s") else None,
            tally.device_done,
            tally.device_total,
            tally.device_left_s if tally.HasField("device_left_s") else None,
        )
        if message.HasField("tally")
        else None,
    )


def progress_message(step: Progress) -> pb.WorkProgress:
    """A step of progress as a message."""
    made = pb.WorkProgress(
        device=step.device, subject=step.subject, done=step.done, doing=step.doing
    )
    if step.transfer is not None:
        made.transfer.bytes_there = step.transfer.bytes_there
        made.transfer.bytes_needed = step.transfer.bytes_needed
        made.transfer.bytes_per_s = step.transfer.bytes_per_s
        made.transfer.source = step.transfer.source
    if step.tally is not None:
        made.tally.CopyFrom(
            pb.WorkProgress.Tally(
                done=step.tally.done,
                total=step.tally.total,
                left_s=step.tally.left_s,
                device_done=step.tally.device_done,
                device_total=step.tally.device_total,
                device_left_s=step.tally.device_left_s,
            )
        )
    return made


def observed_of(device: Device, message: pb.DeviceSample) -> Observed:
    """What a device said, from its message."""
    link = message.link
    return Observed(
        device,
        message.sample if message.HasField("sample") else None,
        message.why,
        LinkQuality(link.rtt_ms, link.least_ms, link.pings, link.reconnects)
        if message.HasField("link")
        else None,
    )
