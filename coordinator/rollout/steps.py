"""The calls of a rollout to one device: prepare, commit, abort, stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio
import msgspec

from coordinator.channels import next_of
from tiermesh import wire
from tiermesh.documents.assignment import Assignment
from tiermesh.documents.reading import encode_json
from tiermesh.errors import TiermeshError, Unreachable, error_of
from tiermesh.v1 import rollout_pb2, rollout_pb2_grpc

SILENCE_S: Final = 120.0
"""A device that prepares says something at least this often; loading a large model is one step."""
CALL_TIMEOUT_S: Final = 15.0
ATTEMPTS: Final = 3
"""Commit, abort and stop are safe to repeat, and are repeated when a device does not answer."""

_DOING: Final = {
    rollout_pb2.PrepareEvent.STEP_LOAD: "load",
    rollout_pb2.PrepareEvent.STEP_WARM: "warm",
    rollout_pb2.PrepareEvent.STEP_SELF_TEST: "self-test",
}


async def prepare(
    channel: grpc.aio.Channel,
    peer: str,
    assignment: Assignment,
    step: Callable[[str, str], None] = lambda _doing, _replica: None,
) -> None:
    """Have a device load, warm and test its assignment; `step` is told what it is at, and of which replica.

    Raises:
        TiermeshError: what the device could not do, as it said, or Unreachable.
    """
    call = rollout_pb2_grpc.RolloutStub(channel).Prepare(
        rollout_pb2.PrepareRequest(assignment=encode_json(assignment))
    )
    try:
        while True:
            event = await next_of(call, SILENCE_S)
            if event is None:
                raise Unreachable(f"{peer} stopped preparing without saying why", peer=peer)
            if event.step == rollout_pb2.PrepareEvent.STEP_PREPARED:
                return
            if event.step == rollout_pb2.PrepareEvent.STEP_FAILED:
                raise _failure(event)
            step(_DOING.get(event.step, "prepare"), event.replica)
    except TimeoutError:
        raise Unreachable(
            f"{peer} said nothing for {SILENCE_S:g} s while it prepared",
            fix="Look at the agent's log",
            peer=peer,
        ) from None
    except grpc.aio.AioRpcError as error:
        raise wire.raised_by(error, peer) from None
    finally:
        call.cancel()


def _failure(event: rollout_pb2.PrepareEvent) -> TiermeshError:
    failure = event.failure
    try:
        fields = msgspec.json.decode(failure.fields or b"{}", type=dict[str, Any])
    except msgspec.MsgspecError:
        fields = {}
    said = {"kind": failure.kind, "what": failure.what, "why": failure.why, "fix": failure.fix}
    return error_of({**fields, **said, "replica": event.replica})


async def commit(channel: grpc.aio.Channel, peer: str, workflow: str, generation: int) -> None:
    """Have a device serve the generation that it prepared."""
    await _repeated(rollout_pb2_grpc.RolloutStub(channel).Commit, peer, workflow, generation)


async def abort(channel: grpc.aio.Channel, peer: str, workflow: str, generation: int) -> None:
    """Have a device forget a generation."""
    await _repeated(rollout_pb2_grpc.RolloutStub(channel).Abort, peer, workflow, generation)


async def stop(channel: grpc.aio.Channel, peer: str, workflow: str, generation: int) -> None:
    """Have a device stop serving a workflow once its requests in flight have ended."""
    await _repeated(rollout_pb2_grpc.RolloutStub(channel).Stop, peer, workflow, generation)


async def _repeated(
    method: Callable[..., Awaitable[rollout_pb2.RolloutReply]],
    peer: str,
    workflow: str,
    generation: int,
) -> None:
    request = rollout_pb2.GenerationRequest(workflow=workflow, generation=generation)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await method(request, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            passing = error.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            )
            if not passing or attempt == ATTEMPTS:
                raise wire.raised_by(error, peer) from None
            await asyncio.sleep(0.2 * attempt)
        else:
            return
