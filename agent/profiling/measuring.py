"""Have a process of its own measure a variant, so that what it breaks or takes ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from agent.errors import MeasurementFailed
from agent.profiling.messages import (
    Answer,
    CannotRun,
    MeasureFailed,
    MeasureProgress,
    MeasureRequest,
    MeasureResult,
)
from tiermesh.errors import error_of

_GRACE_SECONDS: Final = 10.0
"""What starting, loading and one last batch may take beyond the time limit."""
_ERROR_CHARS: Final = 2_000
_LINE_BYTES: Final = 4 * 2**20
_KILLED: Final = 9
"""SIGKILL, which `signal` names on POSIX systems only."""
_THREAD_SETTINGS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


async def measure(
    ask: MeasureRequest,
    report: Callable[[MeasureProgress], None],
    *,
    grace_seconds: float = _GRACE_SECONDS,
) -> MeasureResult | CannotRun:
    """The result, or why this device cannot run the variant.

    Cancelling this kills the process and all that it started.

    Raises:
        TiermeshError: it did not end in its time, or ended without saying anything about the device.
    """
    heard = _Heard(report)
    process = await _start(ask)
    errors = asyncio.create_task(_tail(_piped(process.stderr)))
    try:
        async with asyncio.timeout(ask.time_limit_seconds + grace_seconds):
            await _hand_over(ask, process)
            async for answer in _answers(_piped(process.stdout)):
                heard.take(answer)
            await process.wait()
    except TimeoutError:
        raise MeasurementFailed(
            f"{ask.variant.model}/{ask.variant.name} was not measured in time",
            why=f"no result within {ask.time_limit_seconds:g} s{heard.doing}",
            fix="Give more time: coordinator profile --time-limit",
        ) from None
    finally:
        await asyncio.shield(_end(process, errors))
    if isinstance(heard.result, MeasureFailed):
        raise error_of(heard.result.error)
    return heard.result or _ended(process.returncode or 0, heard.doing, errors.result())


@dataclass(slots=True)
class _Heard:
    """What the process has said so far."""

    report: Callable[[MeasureProgress], None]
    result: MeasureResult | CannotRun | MeasureFailed | None = None
    doing: str = field(default="")

    def take(self, answer: Answer) -> None:
        if isinstance(answer, MeasureProgress):
            self.doing = f", during: {answer.doing}"
            self.report(answer)
        else:
            self.result = answer


async def _start(ask: MeasureRequest) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "agent.profiling.benchmark",
        str(os.getpid()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
        env=_environment(max(ask.threads)),
        start_new_session=True,
    )


def _environment(threads: int) -> Mapping[str, str]:
    """Libraries with threads of their own read how many they may use when they are imported."""
    return {**os.environ, **dict.fromkeys(_THREAD_SETTINGS, str(threads))}


async def _hand_over(ask: MeasureRequest, process: asyncio.subprocess.Process) -> None:
    stdin = process.stdin
    assert stdin is not None  # noqa: S101 - asked for as a pipe
    # A process that is gone already says more through its exit code.
    with contextlib.suppress(ConnectionError):
        stdin.write(msgspec.json.encode(ask))
        await stdin.drain()
    stdin.close()


async def _answers(stream: asyncio.StreamReader) -> AsyncIterator[Answer]:
    while (line := await stream.readline()).endswith(b"\n"):
        yield msgspec.json.decode(line, type=Answer)


async def _tail(stream: asyncio.StreamReader) -> str:
    """The end of what the process says on standard error."""
    text = b""
    while more := await stream.read(2**16):
        text = (text + more)[-_ERROR_CHARS:]
    return text.decode(errors="replace")


async def _end(process: asyncio.subprocess.Process, errors: asyncio.Task[str]) -> None:
    # The whole session: stage code may have started processes, too.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:  # Windows: what stage code started outlives it
            process.kill()
    await process.wait()
    await errors


def _piped(stream: asyncio.StreamReader | None) -> asyncio.StreamReader:
    assert stream is not None  # noqa: S101 - asked for as a pipe
    return stream


def _ended(code: int, doing: str, errors: str) -> CannotRun:
    """Why a process without a result ended, as far as can be told from outside.

    Once it has begun to measure, that is the doing of stage code or of the model's runtime; before, of this program.
    """
    if code == -_KILLED:
        return CannotRun(f"it was killed, probably out of memory{doing}")
    if code < 0:
        return CannotRun(f"it crashed with {signal.Signals(-code).name}{doing}")
    said = errors.strip().splitlines()
    why = f"it ended with code {code}{doing}{': ' + said[-1] if said else ''}"
    if doing:
        return CannotRun(why)
    raise MeasurementFailed("the profiling process did not start", why=why)
