"""Watching the demo's mesh while it serves, and what came of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

from coordinator.cli.demo.agents import BUSIEST
from coordinator.mesh import Mesh
from coordinator.telemetry.status import WorkflowStatus, status_of
from tiermesh.documents.plan import Plan
from tiermesh.errors import TiermeshError
from tiermesh.v1 import telemetry_pb2 as pb

INTERVAL_S: Final = 0.5
RECENT: Final = 9
"""Samples over which live rates are taken: four seconds."""
KILL_AFTER: Final = 0.3
"""The share of the requests after which a worker is killed, when that is asked for."""


def victim_of(plan: Plan, wanted: str | None) -> str | None:
    """The device whose worker is to be killed: `wanted`, or the one with most to do for `BUSIEST`.

    Raises:
        TiermeshError: the plan uses no worker of it.
    """
    busy = dict.fromkeys((r.device for r in plan.replicas), 0.0)
    for replica in plan.replicas:
        busy[replica.device] += replica.utilization
    if wanted == BUSIEST:
        return max(busy, key=lambda device: busy[device])
    if wanted is not None and wanted not in busy:
        raise TiermeshError(
            f"{wanted} has no worker that could be killed",
            why="the plan, which depends on what was measured, gives it nothing to do",
            fix=f"Name one of {', '.join(sorted(busy))}, or: --kill-worker {BUSIEST}",
        )
    return wanted


@dataclass
class DemoSamples:
    """What was seen: the first sample of each device, its recent ones, and what happened, in words.

    `victim` is the device whose worker is killed in mid-run; `recovered` whether it serves again, if there is one.
    `used` are the devices that had something to do, also where a new worker counts from zero again.
    """

    workflow: str
    requests: int
    victim: str | None = None
    killed: str | None = None
    events: list[str] = field(default_factory=list[str])
    finished: bool = False
    recovered: bool = field(init=False)
    used: set[str] = field(default_factory=set[str])
    _killed_pid: int = 0
    _first: dict[str, pb.Sample] = field(default_factory=dict[str, pb.Sample])
    _recent: dict[str, deque[pb.Sample]] = field(default_factory=dict[str, deque[pb.Sample]])

    def __post_init__(self) -> None:
        self.recovered = self.victim is None

    async def watch(
        self, mesh: Mesh, limit_s: float, show: Callable[[WorkflowStatus], None]
    ) -> None:
        """Follow the mesh until every request has ended and the victim serves again, `limit_s` seconds at most."""
        try:
            async with asyncio.timeout(limit_s):
                async for _ in self._samples(mesh):
                    status = self.live(mesh)
                    show(status)
                    self.used |= {r.device for r in status.replicas if r.items is None or r.items}
                    self._maybe_kill(mesh, status)
                    ledger = status.ledger
                    ended = ledger.finished and ledger.balanced
                    self.finished = ended and ledger.accepted == self.requests
                    if self.finished and self.recovered:
                        return
        except TimeoutError:
            self.events.append(f"gave up waiting after {limit_s:.0f} s")

    def live(self, mesh: Mesh) -> WorkflowStatus:
        """The status over the last seconds."""
        return status_of(self.workflow, mesh.fleet, self._recent, {})

    def whole(self, mesh: Mesh) -> WorkflowStatus:
        """The status over the whole run."""
        samples = {d: [self._first[d], recent[-1]] for d, recent in self._recent.items()}
        return status_of(self.workflow, mesh.fleet, samples, {})

    async def _samples(self, mesh: Mesh) -> AsyncIterator[None]:
        async for observed in mesh.watch(interval_s=INTERVAL_S):
            device, sample = observed.device, observed.sample
            if sample is None:
                self.events.append(f"{device.name}: {observed.why}")
                continue
            if device.id in self._first:
                self.events += [f"{device.name}: {event.text}" for event in sample.events]
            self._first.setdefault(device.id, sample)
            self._recent.setdefault(device.id, deque(maxlen=RECENT)).append(sample)
            if self._killed_pid and device.name == self.victim:
                self.recovered |= sample.worker.pid not in (0, self._killed_pid)
            yield

    def _maybe_kill(self, mesh: Mesh, status: WorkflowStatus) -> None:
        if self.victim is None or self.killed:
            return
        device = next(d for d in mesh.fleet.ready if d.name == self.victim)
        pid = self._recent[device.id][-1].worker.pid if device.id in self._recent else 0
        if pid and status.ledger.confirmed >= KILL_AFTER * self.requests:
            os.kill(pid, signal.SIGKILL)
            self._killed_pid = pid
            self.killed = f"kill -9 of the worker of {device.name} (pid {pid})"
            self.events.append(self.killed)
