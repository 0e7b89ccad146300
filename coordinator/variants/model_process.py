"""Runs variants in a process of the agent's model host, on this machine: to measure accuracy, to test what was built.

The coordinator never imports the agent: it starts ``python -m agent.model_host`` and sends it the messages of
`v1/evaluation.proto`, one at a time. Speed does not count here, only what comes out. A model that crashes or hangs
ends that process and is an error of its variant; the next variant gets a new one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import IO, Any, Final, Literal, Self

import msgspec

from tiermesh import evaluation
from tiermesh.arrays import arrays
from tiermesh.documents.reading import encode_json
from tiermesh.documents.variant import Variant
from tiermesh.errors import TiermeshError, error_of
from tiermesh.frames import Payload
from tiermesh.v1 import evaluation_pb2 as pb

STEP_SECONDS: Final = 120.0
"""Loading a variant, one request, or a self-test may take so long. OCR of a photo takes less than a second."""
_ENDING_SECONDS: Final = 5.0
_ERROR_LINES: Final = 20
_THREAD_SETTINGS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_Kind = Literal["loaded", "result", "self_tested"]


class VariantFailed(TiermeshError):
    """A variant crashed, hung, or cannot be run on this machine; `model` and `variant` name it."""

    kind = "variant-failed"


class ModelProcess:
    """The process, started when the first variant is loaded, with one variant loaded at a time. Not thread-safe."""

    def __init__(
        self, folders: Sequence[Path], *, threads: int = 1, step_seconds: float = STEP_SECONDS
    ) -> None:
        """`folders` hold artifacts by the hex digits of their digests; each step may take `step_seconds`."""
        self._folders = folders
        self._threads = threads
        self._step_seconds = step_seconds
        self._running: _Process | None = None
        self._loaded: Variant | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._running is not None:
            self._running.end()
        self._running = self._loaded = None

    def load(self, variant: Variant) -> EvaluatedVariant:
        """Load a variant in place of the one before.

        Raises:
            VariantFailed: it crashed, or took longer than a step may.
            TiermeshError: why it cannot be loaded on this machine, such as a runtime that is not installed.
        """
        whose, self._loaded = EvaluatedVariant(self, variant), variant
        request = pb.EvaluateLoad(variant=encode_json(variant), threads=self._threads)
        loaded = self.ask(variant, pb.EvaluateRequest(load=request), "loaded").loaded
        whose.library, whose.library_version = loaded.library, loaded.version
        return whose

    def ask(
        self, variant: Variant, request: pb.EvaluateRequest, expected: _Kind
    ) -> pb.EvaluateEvent:
        """Have a request answered; see `load` for the errors."""
        if variant is not self._loaded:
            raise TiermeshError(f"{variant.model}/{variant.name} is not loaded any more")
        name = f"{variant.model}/{variant.name}"
        if self._running is None:
            self._running = _Process(self._folders, self._threads)
        try:
            event = self._running.exchange(request, self._step_seconds)
        except TiermeshError:
            # What was said is no message, or too long for one: what follows cannot be told apart.
            self.close()
            raise
        if event is None:
            why, hangs = self._running.why(), self._running.is_out_of_time
            self.close()
            raise VariantFailed(
                f"{name} failed while {_DOING[expected]}",
                why=why,
                fix="Give more time: coordinator variants measure --time-limit" if hangs else "",
                model=variant.model,
                variant=variant.name,
            )
        if event.WhichOneof("event") == "error":
            raise _named(error_of(msgspec.json.decode(event.error)), variant)
        if event.WhichOneof("event") != expected:
            raise TiermeshError(f"the model host answered something else than {expected}")
        return event


class EvaluatedVariant:
    """A variant that is loaded in a `ModelProcess`, until another one is."""

    def __init__(self, process: ModelProcess, variant: Variant) -> None:
        self._process = process
        self._variant = variant
        self.library = ""
        self.library_version = ""

    def process(self, payload: Payload) -> dict[str, Any]:
        """One request through pre-processing, model and post-processing; see `ModelProcess.load` for the errors.

        Its items are run one at a time, so that batching cannot change an answer.
        """
        request = pb.EvaluateRequest(run=evaluation.message_of(payload))
        event = self._process.ask(self._variant, request, "result")
        return arrays(evaluation.payload_of(event.result))

    def self_test(self) -> str | None:
        """Every sample of the stage code, checked by it: None, or what is wrong; a crash is as well."""
        request = pb.EvaluateRequest(self_test=pb.EvaluateSelfTest())
        try:
            event = self._process.ask(self._variant, request, "self_tested")
        except VariantFailed as failed:
            return str(failed)
        return event.self_tested.wrong or None


_DOING: Final[dict[_Kind, str]] = {
    "loaded": "it was loaded",
    "result": "it computed",
    "self_tested": "it tested itself",
}


class _Process:
    """One process of the model host, in a session of its own: stage code may start processes, too."""

    def __init__(self, folders: Sequence[Path], threads: int) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="tiermesh-model-host-")
        self._popen = subprocess.Popen(  # noqa: S603 - our own module
            [
                *(sys.executable, "-m", "agent.model_host", str(os.getpid()), self._scratch.name),
                *map(str, folders),
            ],
            env=_environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._said: deque[str] = deque(maxlen=_ERROR_LINES)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._out_of_time = 0.0

    def exchange(self, request: pb.EvaluateRequest, seconds: float) -> pb.EvaluateEvent | None:
        """The event that answers a request; None where the process ended instead, or was ended after `seconds`."""
        with self._at_most(seconds), contextlib.suppress(BrokenPipeError):
            evaluation.write(_piped(self._popen.stdin), request)
            return evaluation.read(_piped(self._popen.stdout), pb.EvaluateEvent)
        return None

    @property
    def is_out_of_time(self) -> bool:
        """Whether it was ended because a step took too long."""
        return self._out_of_time > 0

    def why(self) -> str:
        """Why the process is gone."""
        if self._out_of_time:
            return f"it did not come to an end within {self._out_of_time:g} s"
        try:
            code = self._popen.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            return "it closed its output and went on"
        if code == -signal.SIGKILL:
            return "it was killed, probably out of memory"
        if code < 0:
            return f"it crashed with {signal.Signals(-code).name}"
        said = f": {self._said[-1]}" if self._said else ""
        return f"its process ended with code {code}{said}"

    def end(self) -> None:
        """Kill it, if need be, and all that it started."""
        self._kill()
        self._popen.wait()
        self._listener.join()
        with contextlib.suppress(BrokenPipeError):
            _piped(self._popen.stdin).close()
        _piped(self._popen.stdout).close()
        self._scratch.cleanup()

    @contextlib.contextmanager
    def _at_most(self, seconds: float) -> Generator[None]:
        """Kill the process if the block takes longer, which ends its reads and writes."""
        timer = threading.Timer(seconds, self._expire, (seconds,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _expire(self, seconds: float) -> None:
        self._out_of_time = seconds
        self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)

    def _listen(self) -> None:
        """Keep the last lines of standard error, and let nothing there block the process."""
        with _piped(self._popen.stderr) as stream:
            for line in iter(lambda: stream.readline(4_096), b""):
                if text := line.decode(errors="replace").strip():
                    self._said.append(text)


def _named(error: TiermeshError, variant: Variant) -> TiermeshError:
    """The same error, as one of the variant."""
    error.what = f"{variant.model}/{variant.name}: {error.what}"
    error.fields |= {"model": variant.model, "variant": variant.name}
    return error


def _environment(threads: int) -> dict[str, str]:
    """Where this process finds modules, the other one does; libraries with threads of their own read how many."""
    paths = os.pathsep.join(filter(None, sys.path))
    return {**os.environ, "PYTHONPATH": paths, **dict.fromkeys(_THREAD_SETTINGS, str(threads))}


def _piped(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # noqa: S101 - asked for as a pipe
    return stream
