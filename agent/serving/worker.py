"""The worker: the process of a device that serves. Started by the agent: ``python -m agent.serving.worker FD``.

FD is one end of a socket pair, over which the agent says what to serve (`agent.serving.control`).
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc.aio

from agent.model_host import process
from agent.serving import control
from agent.serving.endpoint_io.data_folder import DataFolder
from agent.serving.host import Computing, Host
from agent.serving.tuning import retuning
from agent.serving.tuning.logbook import Logbook
from agent.serving.worker_figures import worker_figures
from tiermesh import logs, wire
from tiermesh.errors import TiermeshError

log = logging.getLogger(__name__)

STATS_EVERY_S: Final = 0.25
_BIND_TRIES: Final = 50
_BIND_AGAIN_S: Final = 0.1
_STOP_S: Final = 0.2
_FAILED: Final = 70
_HANGS: Final = 71


class Worker:
    """Serves what the agent says, until the agent goes."""

    def __init__(self, host: Host, writer: asyncio.StreamWriter) -> None:
        self._host = host
        self._writer = writer
        self._calls: set[asyncio.Task[None]] = set()

    def tell(self, message: control.ToAgent) -> None:
        """Say something to the agent."""
        if not self._writer.is_closing():
            self._writer.write(control.encode(message))

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Follow the agent's messages until it goes."""
        beside = [
            asyncio.create_task(self._send_stats()),
            asyncio.create_task(self._end_where_a_batch_hangs()),
            asyncio.create_task(retuning.keep_tuned(self._host)),
        ]
        try:
            self.tell(control.Ready(os.getpid()))
            while (message := await control.read_to_worker(reader)) is not None:
                task = asyncio.create_task(self._answer(message))
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)
        finally:
            for task in beside:
                task.cancel()

    async def _answer(self, message: control.ToWorker) -> None:
        host = self._host
        match message:
            case control.PrepareCall(call, assignment):

                def report(step: str, replica: str, seconds: float) -> None:
                    self.tell(control.Stepped(call, step, replica, seconds))

                await self._do(call, lambda: host.prepare(assignment, report))
            case control.CommitCall(call, workflow, generation):
                await self._do(call, lambda: host.commit(workflow, generation))
            case control.AbortCall(call, workflow, generation):
                host.abort(workflow, generation)
                self.tell(control.Done(call))
            case control.StopCall(call, workflow):
                await self._do(call, lambda: host.stop(workflow))
            case control.Standby(call, assignment):
                await self._do(call, lambda: host.stand_by(assignment))
            case control.Start():
                log.error("a second start is ignored")

    async def _do(self, call: int, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except TiermeshError as error:
            self.tell(control.CallFailed(call, error.to_dict()))
        except Exception as error:
            log.exception("a call failed")
            failed = TiermeshError("the worker failed", why=f"{type(error).__name__}: {error}")
            self.tell(control.CallFailed(call, failed.to_dict()))
        else:
            self.tell(self._stats())
            self.tell(control.Done(call))

    def _stats(self) -> control.WorkerStats:
        host = self._host
        found = worker_figures(host.flows, host.now())
        found.began_at, found.dropped_log_entries = host.began_at, host.dropped_entries
        return control.WorkerStats(found.SerializeToString())

    async def _send_stats(self) -> None:
        while True:
            self.tell(self._stats())
            await self._writer.drain()
            await asyncio.sleep(STATS_EVERY_S)

    async def _end_where_a_batch_hangs(self) -> None:
        """End, and be started again: what hangs is a suspect then, and given up where it does so each time."""
        watched: Computing | None = None
        seconds = 0.0
        while True:
            # Counted, not timed: a worker that was stopped did not compute meanwhile.
            await asyncio.sleep(STATS_EVERY_S)
            computing = self._host.computing
            seconds = seconds + STATS_EVERY_S if computing is watched else 0.0
            watched = computing
            if watched is not None and seconds > watched.longest_s:
                text = f"{watched.where}: a batch computes for more than {watched.longest_s:g} s"
                self.tell(control.Event("batch-hangs", f"{text}; the worker is started again"))
                await self._writer.drain()
                os._exit(_HANGS)


async def run(descriptor: int) -> None:
    """Serve until the other end of the socket under a descriptor closes."""
    asyncio.get_running_loop().set_exception_handler(_end_on_failure)
    reader, writer = await wire.streams(wire.inherited(descriptor), line_bytes=control.LINE_BYTES)
    start = await control.read_to_worker(reader)
    if not isinstance(start, control.Start):
        return
    process.confine(start.memory_bytes)
    server = wire.server(start.credentials)
    host = _host(start, lambda kind, text: writer.write(control.encode(control.Event(kind, text))))
    host.incoming.add_to(server)
    try:
        await _bind(server, start)
        await server.start()
    except TiermeshError as error:
        writer.write(control.encode(control.CallFailed(0, error.to_dict())))
        await writer.drain()
        return
    await Worker(host, writer).serve(reader)
    host.end_well()
    host.incoming.close()
    await server.stop(_STOP_S)
    await asyncio.to_thread(host.close_logbook)


def _end_on_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """State that failed half way through an event is not to be trusted: end, and be started again."""
    loop.default_exception_handler(context)
    if isinstance(context.get("exception"), Exception):
        logs.stop()
        os._exit(_FAILED)


def _host(start: control.Start, notice: Callable[[str, str], None]) -> Host:
    # Imported here: what the agent's own process never needs.
    from agent.rollout.store import Store

    return Host(
        device=start.device,
        epoch=start.epoch,
        data=DataFolder(Path(start.data_folder)),
        logbook=Logbook(Path(start.state_folder) / "logs") if start.batch_log else None,
        state=Path(start.state_folder),
        artifacts=Store(Path(start.store)),
        threads=start.threads,
        slowdown=start.slowdown,
        credentials=start.credentials,
        notice=notice,
    )


async def _bind(server: grpc.aio.Server, start: control.Start) -> None:
    """Take the data port; the worker before this one may not have let go of it yet."""
    host, port = wire.split_address(start.data_address)
    for left in reversed(range(_BIND_TRIES)):
        try:
            wire.bind(server, start.credentials, host, port)
        except TiermeshError:
            if not left:
                raise
            await asyncio.sleep(_BIND_AGAIN_S)
        else:
            return


def main() -> None:
    """Serve over the file descriptor given as the only argument."""
    faulthandler.enable()
    # A worker ends when its agent does, not when somebody presses Ctrl-C in the agent's terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure(None, None, default="info", process="worker")
    try:
        asyncio.run(run(int(sys.argv[1])))
    finally:
        # A model that computes in the compute thread must not keep the process alive.
        logs.stop()
        os._exit(0)


if __name__ == "__main__":
    main()
