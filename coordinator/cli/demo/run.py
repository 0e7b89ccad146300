"""The demo, step by step: fetch, start, discover, profile, plan, roll out, serve, and say how it went."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Group
from rich.live import Live
from rich.panel import Panel

from coordinator.cli.demo import agents, photos, tables
from coordinator.cli.demo.agents import DEVICES, AgentProcess
from coordinator.cli.output import Output
from coordinator.cli.progress import bars
from coordinator.fleet.state import Device
from coordinator.planning import Options, solve
from coordinator.profiling import ProfileOptions
from coordinator.progress import Progress
from coordinator.runner import Mesh
from coordinator.variants import Fetcher, Ladders
from coordinator.variants import Progress as Fetching
from tiermesh.documents.plan import Plan
from tiermesh.documents.workflow import Workflow
from tiermesh.errors import TiermeshError
from tiermesh.v1 import telemetry_pb2 as pb

DISCOVER_S: Final = 20.0
SETTLE_S: Final = 15.0
"""How long after its last request the workflow may take to bring the ledger to balance."""
SERVE_FACTOR: Final = 6.0
"""A run that takes this many times as long as its requests' arrivals has failed."""
PROFILE: Final = ProfileOptions(
    batch_sizes=(1, 2, 4), time_limit_s=2.5, interval=0.05, min_repeats=5, max_repeats=40
)
PLAN_GAP: Final = 1e-4
KILL_AFTER: Final = 0.3
"""With `kill_worker`, the share of the requests after which a worker is killed."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the command line says. `kill_worker` names the device whose worker is killed in mid-run."""

    home: Path
    variants: Path
    images: int = 120
    seed: int = 7
    kill_worker: str | None = None
    hold: bool = False
    picture: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the demo keeps its agents' and its coordinator's state, and reuses their profiles."""
        return self.home / "demo"


@dataclass
class Served:
    """What was seen while it served."""

    samples: dict[str, pb.Sample] = field(default_factory=dict[str, pb.Sample])
    events: list[str] = field(default_factory=list[str])
    killed: str | None = None


class Demo:
    """One run of the demo."""

    def __init__(self, options: DemoOptions, output: Output) -> None:
        self._options = options
        self._output = output
        self._say = output.console.print
        self._begun = time.monotonic()
        self._emulated = {d.name: d.slowdown for d in DEVICES}

    async def run(self) -> int:
        """Exit code 0 when the ledger balances and every result is right in form."""
        options = self._options
        ladders = Ladders.open(options.variants, options.home)
        await self._fetch(ladders)
        truth = await asyncio.to_thread(self._render)
        self._step("start", f"{len(DEVICES)} agents as processes of their own, on loopback")
        async with contextlib.AsyncExitStack() as stack:
            processes = await stack.enter_async_context(agents.running(self._agents))
            mesh = await stack.enter_async_context(
                Mesh.open(
                    options.folder / "coordinator",
                    ladders=ladders,
                    home=options.home,
                    name=agents.MESH,
                )
            )
            return await self._loop(mesh, processes, truth)

    async def _loop(
        self, mesh: Mesh, processes: Sequence[AgentProcess], truth: Mapping[str, list[str]]
    ) -> int:
        workflow = await mesh.read_workflow(
            self._options.variants / "read-signs" / "read-signs.yaml"
        )
        await self._discover(mesh, processes)
        await self._profile(mesh, workflow)
        plan = await self._plan(mesh, workflow, truth)
        run = f"demo-{int(time.time())}"
        await self._apply(mesh, plan, run)
        served = await self._serve(mesh, plan, workflow, processes, len(truth))
        reading = photos.read(self._sinks(), run, truth)
        code = self._summary(plan, served, reading)
        if self._options.hold:
            await self._hold()
        return code

    # The steps

    async def _fetch(self, ladders: Ladders) -> None:
        missing = {m: ladders.missing(m) for m in ladders.models}
        wanted = [m for m, names in missing.items() if names]
        total = sum(len(ladders.variants(m)) for m in ladders.models)
        self._step("fetch", f"{sum(map(len, missing.values()))} variants to fetch, {total} here")
        if wanted:
            with bars(self._output) as report:

                def watch(p: Fetching) -> None:
                    report(Progress("fetch", p.task, p.done / max(p.total, 1)))

                await asyncio.to_thread(Fetcher(ladders, watch=watch).fetch, wanted)

    def _render(self) -> dict[str, list[str]]:
        self._step("render", f"{self._options.images} photos of signs whose text is known")
        folders = [self._data(d.name) / "signs" for d in DEVICES if d.tier == DEVICES[0].tier]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        return photos.render(folders, self._options.images, self._options.seed)

    async def _discover(self, mesh: Mesh, processes: Sequence[AgentProcess]) -> None:
        self._step("discover", "browsing for agents")
        names = {d.name for d in DEVICES}
        for device in list(mesh.fleet.devices.values()):
            if device.name not in names:
                await mesh.forget(device, "not of the demo")
        found = await mesh.discover(expect=len(DEVICES), timeout_s=DISCOVER_S)
        for process in processes:
            process.check()
        lacking = names - {device.name for device in found}
        if lacking:
            raise TiermeshError(
                f"{', '.join(sorted(lacking))} did not announce themselves",
                why=f"waited {DISCOVER_S:g} s",
                fix=f"See the logs in {self._agents}",
            )
        self._say(tables.fleet_table(DEVICES))

    async def _profile(self, mesh: Mesh, workflow: Workflow) -> None:
        self._step("profile", "what is not measured yet; devices of one host take turns")
        with bars(self._output) as report:
            await mesh.profile(workflow, options=PROFILE, report=report)
        for failure in mesh.fleet.profile_failures:
            self._say(f"[yellow]not measured:[/] {failure}")

    async def _plan(self, mesh: Mesh, workflow: Workflow, truth: Mapping[str, list[str]]) -> Plan:
        self._step("plan", "the least cost that meets rate, accuracy and latency")
        sizes = [p.stat().st_size for p in self._agents.glob("*/data/signs/*.jpg")]
        source_bytes = {name: sum(sizes) / len(truth) for name in ("photos",)}
        problem = await mesh.problem(workflow, source_bytes=source_bytes)
        plan = await asyncio.to_thread(solve, problem, Options(gap=PLAN_GAP))
        await mesh.plan_made(plan)
        self._say(tables.plan_table(plan, self._emulated))
        await self._compare(problem, plan)
        return plan

    async def _compare(self, problem: Any, plan: Plan) -> None:
        """What a plan that may not mix variants would cost: the gain of splitting requests."""
        try:
            single = await asyncio.to_thread(
                solve, problem, Options(single_variant=True, gap=PLAN_GAP)
            )
        except TiermeshError as error:
            self._say(f"one variant per stage for all requests: {error.what}")
            return
        saved = 1 - plan.cost.total_per_hour / single.cost.total_per_hour
        self._say(
            f"splitting requests over variants saves {saved:.0%}: one variant per stage would cost"
            f" {single.cost.total_per_hour:.4f} USD/h"
            if saved > PLAN_GAP
            else "one variant per stage costs the same here: splitting requests saves nothing"
        )

    async def _apply(self, mesh: Mesh, plan: Plan, run: str) -> None:
        self._step("roll out", "push, load, warm up, self-test; then switch all devices")
        with bars(self._output) as report:
            applied = await mesh.apply(plan, run=run, report=report)
        if applied.failures:
            raise TiermeshError(
                "the rollout failed and was undone",
                why="; ".join(f"{d}: {why}" for d, why in applied.failures.items()),
                fix=f"See the logs in {self._agents}",
            )
        self._say(f"generation {applied.generation} serves")

    async def _serve(
        self,
        mesh: Mesh,
        plan: Plan,
        workflow: Workflow,
        processes: Sequence[AgentProcess],
        requests: int,
    ) -> Served:
        rate = plan.predicted.throughput_rps
        self._step("serve", f"{requests} photos at {rate:g} a second")
        served = Served()
        limit_s = SERVE_FACTOR * requests / rate + SETTLE_S
        before: dict[str, pb.Sample] = {}
        with self._live() as live, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                async for name, sample in self._samples(mesh, served):
                    before.setdefault(name, sample)
                    served.samples[name] = sample
                    counted = tables.counts(served.samples.values(), workflow.workflow)
                    live.update(self._picture(plan, served, before, counted))
                    self._maybe_kill(served, counted, requests)
                    if counted.finished and counted.balanced and counted.accepted == requests:
                        return served
        # What is in flight now stays in the ledger; the summary says that it does not balance.
        served.events.append(f"gave up waiting after {limit_s:.0f} s")
        return served

    async def _samples(self, mesh: Mesh, served: Served) -> AsyncIterator[tuple[str, pb.Sample]]:
        devices: dict[str, Device] = {d.id: d for d in mesh.fleet.ready}
        async for observed in mesh.watch(interval_s=0.5, devices=devices.values()):
            if observed.sample is None:
                served.events.append(f"{observed.device.name}: {observed.why}")
                continue
            served.events += [f"{observed.device.name}: {e.text}" for e in observed.sample.events]
            yield observed.device.name, observed.sample

    def _maybe_kill(self, served: Served, counted: tables.Counts, requests: int) -> None:
        name = self._options.kill_worker
        if name is None or served.killed or counted.confirmed < KILL_AFTER * requests:
            return
        pid = served.samples[name].worker.pid if name in served.samples else 0
        if pid:
            os.kill(pid, signal.SIGKILL)
            served.killed = f"kill -9 of the worker of {name} (pid {pid})"
            served.events.append(served.killed)

    async def _hold(self) -> None:
        self._say("holding the mesh; Ctrl-C ends it")
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, stop.set)
        await stop.wait()

    # What is shown

    def _step(self, name: str, text: str) -> None:
        seconds = time.monotonic() - self._begun
        self._output.progress.print(f"[dim]{seconds:5.1f} s[/] [bold cyan]{name:>9}[/] {text}")

    @contextlib.contextmanager
    def _live(self) -> Any:
        with Live(
            console=self._output.progress,
            refresh_per_second=4,
            transient=True,
            vertical_overflow="visible",
        ) as live:
            yield live

    def _picture(
        self,
        plan: Plan,
        served: Served,
        before: Mapping[str, pb.Sample],
        counted: tables.Counts,
    ) -> Group:
        table = tables.live_table(plan, served.samples, before, self._emulated)
        return Group(table, tables.ledger_line(counted), *served.events[-3:])

    def _summary(self, plan: Plan, served: Served, reading: photos.Reading) -> int:
        counted = tables.counts(served.samples.values(), plan.workflow)
        measured_cost = plan.cost.total_per_hour
        balanced = counted.balanced and counted.results == reading.results
        good = balanced and not reading.wrong_form
        comparison = tables.comparison_table(
            plan, counted.rate_rps, counted.latency_ms, measured_cost
        )
        lines = [
            f"read {reading.results} photos with {reading.characters} characters:"
            f" character error rate {1 - reading.accuracy:.1%}"
            + (
                f" (predicted {1 - plan.predicted.accuracy:.1%})" if plan.predicted.accuracy else ""
            ),
            tables.ledger_line(counted)
            + ("   [green]balanced[/]" if balanced else "   [red]NOT BALANCED[/]"),
            *(f"[red]wrong form:[/] {why}" for why in reading.wrong_form[:5]),
            *(f"[yellow]event:[/] {event}" for event in served.events),
        ]
        self._say(comparison)
        for line in lines:
            self._say(line)
        self._say(Panel(self._by_hand(), title="open the same mesh by hand", title_align="left"))
        self._output.document(self._document(plan, counted, reading, served, good))
        return 0 if good else 1

    def _document(
        self,
        plan: Plan,
        counted: tables.Counts,
        reading: photos.Reading,
        served: Served,
        good: bool,
    ) -> dict[str, Any]:
        return {
            "ok": good,
            "ledger": {
                "accepted": counted.accepted,
                "results": counted.results,
                "errors": counted.errors,
                "filtered": counted.filtered,
                "balanced": counted.balanced,
                "injected_again": counted.retried,
                "duplicates_dropped": counted.duplicates,
            },
            "character_error_rate": 1 - reading.accuracy,
            "predicted": plan.predicted,
            "measured": {
                "throughput_rps": counted.rate_rps,
                "latency_ms": dict(counted.latency_ms),
            },
            "cost": plan.cost,
            "solver": plan.solver,
            "events": served.events,
            "killed": served.killed,
            "seconds": time.monotonic() - self._begun,
        }

    def _by_hand(self) -> str:
        first = " ".join(DEVICES[0].arguments(self._agents))
        options = f"--state {self._options.folder / 'coordinator'} --mesh {agents.MESH}"
        workflow = self._options.variants / "read-signs" / "read-signs.yaml"
        return (
            f"agent {first} &\n"
            f"    # and so on for {', '.join(d.name for d in DEVICES[1:])};"
            " or: coordinator demo --hold, and then in another terminal\n"
            f"coordinator devices {options}\n"
            f"coordinator plan {workflow} {options} -o plan.json\n"
            f"coordinator apply plan.json {options} --wait\n"
            f"coordinator status {options}"
        )

    @property
    def _agents(self) -> Path:
        return self._options.folder / "agents"

    def _data(self, device: str) -> Path:
        return self._agents / device / "data"

    def _sinks(self) -> list[Path]:
        return [self._data(d.name) / "out" / "text.jsonl" for d in DEVICES]
