"""The agent's side of the worker: starts it when there is something to serve, speaks to it, starts it again.

What is committed and prepared is remembered here, so that a worker that died is replaced by one that serves the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections import deque
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
from google.protobuf.message import DecodeError

from agent.serving import control
from agent.serving.compute.running_note import has_left_work
from tiermesh import limits, wire
from tiermesh.background import Background
from tiermesh.documents.assignment import Assignment
from tiermesh.errors import TiermeshError, error_of
from tiermesh.v1 import telemetry_pb2 as pb

log = logging.getLogger(__name__)

Report: TypeAlias = Callable[[str, str, float], None]
"""Called with a step (`load`, `warm`, `self-test`), the replica, and the seconds it took; see `compute.replicas`."""

MALLOC: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(8 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(32 * 2**20),
}
"""glibc gives large blocks back to the kernel at once, and the next tensor of their size pays for zeroed pages again:
more than for the copy itself. The worker keeps up to 32 MiB instead."""
_READY_S: Final = 30.0
_END_S: Final = 5.0
_LISTEN_S: Final = 0.5
_SUCCEEDED_S: Final = 30.0
_STABLE_S: Final = 60.0
"""What a worker serves for so long does not end it by being served."""
_PROBATION_S: Final = limits.WORKER_SILENT_S + 2.0
_FALLS: Final = 3
"""Ends of workers in a row, soon after their start and with no request running, before an assignment is suspected."""
_BACK_OFF_S: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker of this device is started with. `data_address` stays equal across its restarts.

    `memory_bytes` is the device's memory, of which the worker leaves some to others; 0: it is not limited.
    """

    device: str
    data_address: str
    data_folder: str
    state_folder: str
    store: str
    threads: int = 1
    memory_bytes: int = 0
    slowdown: float = 1.0
    credentials: wire.AnyCredentials = wire.LOOPBACK
    batch_log: bool = True


class WorkerDied(TiermeshError):
    """The worker ended while it was asked for something."""

    kind = "worker-died"


class _Process:
    """One worker process, from its start to its end. `figures` are the last it sent."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_event: Callable[[str, str], None],
    ) -> None:
        self.process = process
        self.figures = pb.WorkerFigures()
        self._reader = reader
        self._writer = writer
        self._on_event = on_event
        self._calls: dict[int, tuple[asyncio.Future[None], Report | None]] = {}
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._heard = False
        self._silent = False
        self._listening = asyncio.create_task(self._listen(), name="worker's messages")
        self._minding = asyncio.create_task(self._kill_if_silent(), name="worker's silence")

    @classmethod
    async def start(cls, start: control.Start, on_event: Callable[[str, str], None]) -> _Process:
        """Start a process and wait until it takes frames.

        Raises:
            TiermeshError: it does not start.
        """
        mine, theirs = wire.process_pair()
        with theirs, contextlib.ExitStack() as on_error:
            on_error.callback(mine.close)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "agent.serving.worker",
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                env={**MALLOC, **os.environ},
            )
            on_error.pop_all()
        reader, writer = await wire.streams(mine, line_bytes=control.LINE_BYTES)
        worker = cls(process, reader, writer, on_event)
        try:
            worker._writer.write(control.encode(start))
            async with asyncio.timeout(_READY_S):
                await worker._ready
        except TimeoutError:
            await worker.end()
            raise TiermeshError(f"the worker does not start within {_READY_S:.0f} s") from None
        except BaseException:
            await worker.end()
            raise
        return worker

    async def ask(self, call: int, message: control.ToWorker, report: Report | None = None) -> None:
        """Send a message and wait until the worker has done it.

        Raises:
            WorkerDied: it ended meanwhile. TiermeshError: the worker's own.
        """
        if self._listening.done():
            raise WorkerDied("the worker has ended")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls[call] = done, report
        try:
            self._writer.write(control.encode(message))
            await done
        finally:
            del self._calls[call]

    @property
    def ended_itself(self) -> bool:
        """Whether it ended by an error, or hung, and nobody else killed it."""
        return self._silent or (self.process.returncode or 0) > 0

    async def wait(self) -> str:
        """Wait for its end; says how it ended."""
        code = await self.process.wait()
        await self._listening
        self._writer.close()
        return f"killed by signal {-code}" if code < 0 else f"exit status {code}"

    async def end(self) -> None:
        """Close its socket, upon which it ends; kill it where it does not."""
        self._writer.close()
        try:
            async with asyncio.timeout(_END_S):
                await self.process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def _kill_if_silent(self) -> None:
        """A worker tells its figures several times a second; one that does not is stopped, or hangs."""
        silent_s = 0.0
        while silent_s < limits.WORKER_SILENT_S:
            # Counted, not timed: an agent that was stopped did not listen meanwhile.
            await asyncio.sleep(_LISTEN_S)
            silent_s = 0.0 if self._heard or not self._ready.done() else silent_s + _LISTEN_S
            self._heard = False
        self._silent = True
        self._on_event(
            "worker-silent", f"the worker has been silent for {silent_s:g} s; it is killed"
        )
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def _listen(self) -> None:
        try:
            while (message := await control.read_to_agent(self._reader)) is not None:
                self._heard = True
                self._take(message)
        except (msgspec.MsgspecError, DecodeError) as error:
            log.error("invalid message from the worker: %s", error)
            self.process.kill()
        finally:
            self._minding.cancel()
            died = WorkerDied("the worker has ended", why="it died before it answered")
            for waiting in [self._ready, *(future for future, _ in self._calls.values())]:
                if not waiting.done():
                    waiting.set_exception(died)
            # Nobody may be waiting for it to be ready any more.
            self._ready.exception()

    def _take(self, message: control.ToAgent) -> None:
        match message:
            case control.Ready():
                self._ready.set_result(None)
            case control.WorkerStats(figures):
                self.figures = pb.WorkerFigures.FromString(figures)
            case control.Event(kind, text):
                self._on_event(kind, text)
            case control.CallFailed(0, error):
                self._ready.set_exception(error_of(error))
            case control.Stepped(call, step, replica, seconds):
                _, report = self._calls.get(call, (None, None))
                if report is not None:
                    report(step, replica, seconds)
            case control.Done(call) | control.CallFailed(call):
                future, _ = self._calls.get(call, (None, None))
                if future is None or future.done():
                    return
                if isinstance(message, control.Done):
                    future.set_result(None)
                else:
                    future.set_exception(error_of(message.error))


class WorkerSupervisor:
    """Keeps one worker serving. `next_epoch` gives a greater number at each call, across the agent's restarts, too."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        next_epoch: Callable[[], int],
        on_event: Callable[[str, str], None],
        probation_s: float = _PROBATION_S,
    ) -> None:
        """`on_set_aside` is called with a workflow, its generation and why it is not served any more.

        `probation_s` is for how long an assignment is served alone before it is known not to end the worker.
        """
        self._settings = settings
        self._next_epoch = next_epoch
        self._on_event = on_event
        self._probation_s = probation_s
        self.on_set_aside: Callable[[str, int, str], None] = _nothing
        self._falls = 0
        self._prepared: dict[tuple[str, int], Assignment] = {}
        self._committed: dict[str, Assignment] = {}
        self._standby: dict[str, Assignment] = {}
        self._leases: dict[str, asyncio.TimerHandle] = {}
        self._ending = Background()
        self._preparing = 0
        self._calls = count(1)
        self._lock = asyncio.Lock()
        self._process: _Process | None = None
        self._replaced = asyncio.Event()
        self._held: wire.HeldPort | None = None
        self._watching: asyncio.Task[None] | None = None
        self._starts: deque[float] = deque()
        self._state = pb.WorkerState.STATE_STOPPED
        self.restarts = 0
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The process id of the worker that serves."""
        return self._process.process.pid if self._process is not None else None

    @property
    def figures(self) -> pb.WorkerFigures:
        """What the worker last said of itself; empty where there is none."""
        return self._process.figures if self._process is not None else pb.WorkerFigures()

    async def prepare(self, assignment: Assignment, report: Report) -> None:
        """Load, warm and self-test all replicas beside what runs; starts the worker where there is none.

        Raises:
            TiermeshError: a replica, which it names, cannot be served; what runs is untouched.
        """
        self._preparing += 1
        try:
            async with self._lock:
                process = await self._running()
            await process.ask(
                call := next(self._calls), control.PrepareCall(call, assignment), report
            )
            self._prepared[assignment.workflow, assignment.generation] = assignment
        finally:
            self._preparing -= 1

    async def stand_by(self, assignment: Assignment) -> None:
        """Keep replicas loaded beside what runs, in place of those before.

        They are let go of unless this is repeated within `limits.STANDBY_S`, and at once when there are none.

        Raises:
            TiermeshError: a replica, which it names, cannot be served.
        """
        workflow = assignment.workflow
        if (lease := self._leases.pop(workflow, None)) is not None:
            lease.cancel()
        if not assignment.replicas:
            self._standby.pop(workflow, None)
            await self._tell_if_running(lambda call: control.Standby(call, assignment))
            await self._end_if_idle()
            return
        self._standby[workflow] = assignment
        try:
            async with self._lock:
                process = await self._running()
            await self._load_standby(process, assignment)
        except TiermeshError:
            self._standby.pop(workflow, None)
            raise
        finally:
            # Another may have taken its place meanwhile, and have none.
            await self._end_if_idle()
        self._leases[workflow] = asyncio.get_running_loop().call_later(
            limits.STANDBY_S, self._let_go, workflow
        )

    async def _load_standby(self, process: _Process, assignment: Assignment) -> None:
        await process.ask(call := next(self._calls), control.Standby(call, assignment))

    def _let_go(self, workflow: str) -> None:
        former = self._standby.get(workflow)
        if former is not None:
            nothing = msgspec.structs.replace(former, replicas=[])
            self._ending.start(self.stand_by(nothing), "standby ends")

    async def commit(self, workflow: str, generation: int) -> None:
        """Switch to the prepared generation.

        Raises:
            TiermeshError: it is not prepared.
        """
        assignment = self._prepared.get((workflow, generation))
        if assignment is None:
            raise TiermeshError(f"generation {generation} of {workflow} is not prepared")
        former = self._committed.get(workflow)
        self._committed[workflow] = assignment
        process: _Process | None = None
        try:
            async with self._lock:
                process = await self._running()
            call = next(self._calls)
            await process.ask(call, control.CommitCall(call, workflow, generation))
        except WorkerDied:
            log.info("worker restarted; generation %d is live again", generation)
            if assignment.formers:
                await self._succeeded(process)
        except TiermeshError:
            if former is not None:
                self._committed[workflow] = former
            else:
                del self._committed[workflow]
            raise
        for key in [k for k in self._prepared if k[0] == workflow and k[1] <= generation]:
            del self._prepared[key]

    async def abort(self, workflow: str, generation: int) -> None:
        """Forget a prepared generation; where there is none, nothing happens."""
        self._prepared.pop((workflow, generation), None)
        await self._tell_if_running(lambda call: control.AbortCall(call, workflow, generation))
        await self._end_if_idle()

    async def stop(self, workflow: str) -> None:
        """Drain and stop a workflow; a worker with nothing left to serve ends."""
        self._committed.pop(workflow, None)
        await self._tell_if_running(lambda call: control.StopCall(call, workflow))
        await self._end_if_idle()

    def fill(self, sample: pb.Sample) -> None:
        """Add what the worker does to a sample."""
        sample.worker.state = self._state
        sample.worker.restarts = self.restarts
        sample.worker.pid = self.pid or 0
        sample.figures.CopyFrom(self.figures)

    async def close(self) -> None:
        """End the worker; what is in flight goes on after the next start."""
        self._closed = True
        for lease in self._leases.values():
            lease.cancel()
        # One that is ending a worker already must have ended it before the loop goes.
        await self._ending.finish()
        await self._end()

    # The process

    async def _running(self) -> _Process:
        """The worker; started where there is none, and waited for where it is being replaced."""
        if self._closed:
            raise TiermeshError("the agent is ending")
        if self._watching is None:
            self._process = await self._start()
            self._watching = asyncio.create_task(self._watch(self._process), name="worker's end")
        while self._process is None:
            self._replaced.clear()
            await self._replaced.wait()
        return self._process

    async def _succeeded(self, process: _Process | None) -> None:
        """Wait until the worker that follows serves, with the states of aggregates: those who had them may go then."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SUCCEEDED_S):
                while self._process in (None, process):
                    self._replaced.clear()
                    await self._replaced.wait()

    def _hold_port(self) -> None:
        """Keep the data port from others while no worker listens on it, for example between two workers."""
        if self._held is not None:
            return
        # Where the address cannot be used, the worker will say in words why.
        with contextlib.suppress(TiermeshError):
            self._held = wire.HeldPort(self._settings.credentials, self._settings.data_address)

    async def _start(self) -> _Process:
        self._hold_port()
        self._state = pb.WorkerState.STATE_STARTING
        start = control.Start(epoch=self._next_epoch(), **msgspec.structs.asdict(self._settings))
        try:
            process = await _Process.start(start, self._on_event)
        except BaseException:
            self._state = pb.WorkerState.STATE_FAILED
            raise
        self._state = pb.WorkerState.STATE_SERVING
        return process

    async def _watch(self, process: _Process) -> None:
        """Replace the worker whenever it ends by itself."""
        while True:
            began = asyncio.get_running_loop().time()
            how = await process.wait()
            self._process = None
            self._state = pb.WorkerState.STATE_FAILED
            self._on_event("worker-ended", f"the worker ended: {how}")
            self._count_fall(process, asyncio.get_running_loop().time() - began)
            process = await self._replace()
            try:
                await self._serve_all_again(process)
            except asyncio.CancelledError:
                await self._end_unless_serving(process)
                raise

    async def _end_unless_serving(self, process: _Process) -> None:
        """End a process that nobody else knows of, since it does not serve yet."""
        if self._process is not process:
            await process.end()

    def _count_fall(self, process: _Process, lived_s: float) -> None:
        """Count the ends that what is served may be to blame for, in a row."""
        left_work = has_left_work(Path(self._settings.state_folder) / "serving")
        blamed = process.ended_itself and not left_work and lived_s < _STABLE_S
        self._falls = self._falls + 1 if blamed else 0

    async def _replace(self) -> _Process:
        """Start a worker, and try again for as long as it does not start."""
        while True:
            await asyncio.sleep(self._back_off())
            try:
                process = await self._start()
            except (TiermeshError, OSError) as error:
                # Also where no process or socket can be had just now: nobody else tries again.
                self._on_event("worker-failed", f"the worker does not start again: {error}")
                continue
            self.restarts += 1
            return process

    async def _serve_all_again(self, process: _Process) -> None:
        """Let a new worker serve what the one before did; then others may speak to it."""
        try:
            for assignment in list(self._committed.values()):
                await self._serve_or_set_aside(process, assignment, commit=True)
            for assignment in list(self._prepared.values()):
                if assignment not in self._committed.values():
                    await self._serve_or_set_aside(process, assignment, commit=False)
        except WorkerDied as error:
            log.warning("the new worker exited at once: %s", error)
            return
        self._process = process
        self._replaced.set()
        self._on_event("worker-restarted", f"worker {process.process.pid} serves again")
        for assignment in list(self._standby.values()):
            await self._stand_by_again(process, assignment)

    async def _serve_or_set_aside(
        self, process: _Process, assignment: Assignment, *, commit: bool
    ) -> None:
        """Serve an assignment, or prepare it.

        Where workers fall again and again, it is served alone for a while, and never again if this one falls, too.

        Raises:
            WorkerDied: the worker ended; it is started again for the others.
        """
        suspicious = self._falls >= _FALLS
        try:
            await self._serve_again(process, assignment, commit=commit)
            if suspicious and commit:
                await self._survive(process)
        except WorkerDied:
            await process.process.wait()
            left_work = has_left_work(Path(self._settings.state_folder) / "serving")
            if suspicious and process.ended_itself and not left_work:
                self._set_aside(assignment)
            raise

    async def _survive(self, process: _Process) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._probation_s):
                await process.process.wait()
                raise WorkerDied("the worker has ended")

    def _set_aside(self, assignment: Assignment) -> None:
        workflow, generation = assignment.workflow, assignment.generation
        if self._prepared.get((workflow, generation)) == assignment:
            del self._prepared[workflow, generation]
        if is_live := self._committed.get(workflow) == assignment:
            del self._committed[workflow]
        why = (
            f"the worker ended {self._falls + 1} times in a row while it served this and no request"
        )
        self._on_event("assignment-set-aside", f"{workflow}, generation {generation}: {why}")
        if is_live:
            self.on_set_aside(workflow, generation, why)

    async def _stand_by_again(self, process: _Process, assignment: Assignment) -> None:
        """What made the worker end may have been a replica on standby, so it is tried once."""
        try:
            await self._load_standby(process, assignment)
        except TiermeshError as error:
            self._standby.pop(assignment.workflow, None)
            log.warning("standby replicas of %s are gone: %s", assignment.workflow, error)

    async def _serve_again(
        self, process: _Process, assignment: Assignment, *, commit: bool
    ) -> None:
        workflow, generation = assignment.workflow, assignment.generation
        try:
            await process.ask(call := next(self._calls), control.PrepareCall(call, assignment))
            if commit:
                call = next(self._calls)
                await process.ask(call, control.CommitCall(call, workflow, generation))
        except WorkerDied:
            raise
        except TiermeshError as error:
            self._on_event("resume-failed", f"{workflow}, generation {generation}: {error}")

    def _back_off(self) -> float:
        """How long to wait before the next start: longer the more there were within the last minute."""
        now = asyncio.get_running_loop().time()
        while self._starts and self._starts[0] < now - 60:
            self._starts.popleft()
        self._starts.append(now)
        if len(self._starts) > limits.WORKER_RESTARTS_PER_MINUTE:
            return 60 - (now - self._starts[0])
        return _BACK_OFF_S[min(len(self._starts), len(_BACK_OFF_S)) - 1]

    async def _tell_if_running(self, message: Callable[[int], control.ToWorker]) -> None:
        process = self._process
        if process is not None:
            with contextlib.suppress(WorkerDied):
                call = next(self._calls)
                await process.ask(call, message(call))

    async def _end_if_idle(self) -> None:
        if not (self._committed or self._prepared or self._standby or self._preparing):
            await self._end()

    async def _end(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None
        process, self._process = self._process, None
        if process is not None:
            await process.end()
        if self._held is not None:
            self._held.close()
            self._held = None
        self._state = pb.WorkerState.STATE_STOPPED


def _nothing(_workflow: str, _generation: int, _why: str) -> None:
    pass
