"""Errors across a call: a TiermeshError arrives at the caller as it was raised, with its fields."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
import msgspec

from tiermesh.errors import TiermeshError, Unreachable, error_of

FAILURE_KEY: Final = "tiermesh-failure-bin"


async def answer_errors(
    context: grpc.aio.ServicerContext[Any, Any], work: Callable[[], Awaitable[Any]]
) -> Any:
    """Run a handler's work; a TiermeshError goes to the caller whole, with its fields."""
    try:
        return await work()
    except TiermeshError as error:
        await abort(context, error)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: TiermeshError) -> NoReturn:
    """End a call with an error that `raised_by` turns back into the same one."""
    await context.abort(
        grpc.StatusCode.FAILED_PRECONDITION,
        str(error),
        trailing_metadata=((FAILURE_KEY, encode_error(error)),),
    )
    raise AssertionError("abort returned")


def encode_error(error: TiermeshError) -> bytes:
    """An error with its fields, as JSON."""
    return msgspec.json.encode(error.to_dict(), enc_hook=str)


def decode_error(data: bytes) -> TiermeshError:
    """The error that was encoded; what is no error of ours says so."""
    try:
        return error_of(msgspec.json.decode(data, type=dict[str, Any]))
    except msgspec.MsgspecError:
        return TiermeshError("the other end failed", why="it does not say how")


def raised_by(error: grpc.aio.AioRpcError, peer: str) -> TiermeshError:
    """The error behind a failed call: the peer's own where it sent one, else that it is unreachable."""
    for key, value in error.trailing_metadata() or ():
        if key == FAILURE_KEY and isinstance(value, bytes):
            return decode_error(value)
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return Unreachable(
            f"{peer} does not answer",
            why=(error.details() or "").split(";")[0][:200],
            fix="Check that the agent runs there and that the address is right",
            peer=peer,
        )
    return TiermeshError(
        f"the call to {peer} failed", why=f"{error.code().name}: {error.details()}", peer=peer
    )
