"""The demo, step by step: fetch, start, discover, profile, plan, roll out, serve, and say how it went."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console, Group
from rich.live import Live

from coordinator.cli.attainment import verdict_line
from coordinator.cli.demo import agents, photos, tables
from coordinator.cli.demo.agents import DEVICES, AgentProcess
from coordinator.cli.demo.serving import DemoSamples, victim_of
from coordinator.cli.output import CommandOutput
from coordinator.cli.progress import bars
from coordinator.cli.replicas import ledger_line, replica_table
from coordinator.cli.text import clean
from coordinator.mesh import Mesh
from coordinator.planning import Options, solve
from coordinator.profiling.profiler import ProfileOptions
from coordinator.progress import Progress, Report, silent
from coordinator.telemetry.status import WorkflowStatus
from coordinator.variants import Fetcher, Ladders
from coordinator.variants import FetchProgress as Fetching
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem
from tiermesh.documents.workflow import Workflow
from tiermesh.errors import InvalidDocument, TiermeshError

DISCOVER_S: Final = 20.0
SETTLE_S: Final = 15.0
MEASURE_S: Final = 2.5
"""How long each replica is run on its samples before it serves."""
SERVE_FACTOR: Final = 4.0
"""A run that takes this many times as long as its arrivals, and `SETTLE_S`, has failed."""
PROFILE: Final = ProfileOptions(
    batch_sizes=(1, 2, 4), time_limit_s=2.5, interval=0.05, min_repeats=5, max_repeats=40
)
PLAN: Final = Options(gap=1e-4, time_limit_s=10.0)
PICTURE_COLUMNS: Final = 104
TYPED_COLUMNS: Final = 78
SHOWN_FAULTS: Final = 5
FEWEST_IMAGES: Final = 10
MOST_IMAGES: Final = 10_000


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the command line says.

    `home` has the artifacts; `folder` keeps the agents' and the coordinator's state, and with it their profiles,
    for the next demo. `kill_worker` names the device whose worker is killed in mid-run,
    or is `BUSIEST`.
    """

    home: Path
    folder: Path
    variants: Path
    images: int = 120
    seed: int = 7
    kill_worker: str | None = None
    hold: bool = False
    picture: Path | None = None

    @property
    def workflow(self) -> Path:
        """The workflow that is served."""
        return self.variants / "read-signs" / "read-signs.yaml"


class Demo:
    """One run of the demo."""

    def __init__(self, options: DemoOptions, output: CommandOutput) -> None:
        self._options = options
        self._output = output
        self._begun = time.monotonic()
        self._emulated = {d.name: d.slowdown for d in DEVICES}
        self._agents = options.folder / "agents"
        self._mesh = agents.mesh_of(options.folder)
        if options.picture is not None:
            output.console = output.progress = Console(
                record=True, highlight=False, width=PICTURE_COLUMNS, stderr=output.json
            )
        self._say = output.console.print

    async def run(self) -> int:
        """Exit code 0 when the ledger balances and every photo was read to a result of the right form.

        A worker that was killed must serve again, too.
        """
        options = self._options
        _check(options)
        ladders = Ladders.open(options.variants, options.home)
        await self._fetch(ladders)
        state = options.folder / "coordinator"
        async with contextlib.AsyncExitStack() as stack:
            # Its lock keeps a second demo from the photos and agents of one that runs.
            async with Mesh.open(
                state, ladders=ladders, home=options.home, name=self._mesh
            ) as mesh:
                truth = await asyncio.to_thread(self._render)
                self._step(
                    "start", f"{len(DEVICES)} agents, each a process of its own, on loopback"
                )
                running = agents.running(self._agents, self._mesh)
                code = await self._loop(mesh, await stack.enter_async_context(running), truth)
            if options.picture is not None:
                self._output.console.save_svg(str(options.picture), title="coordinator demo")
            if options.hold:
                # The mesh is closed by now: the commands that are typed meanwhile open it.
                await self._hold()
        return code

    async def _loop(
        self, mesh: Mesh, processes: Sequence[AgentProcess], truth: Mapping[str, list[str]]
    ) -> int:
        workflow = await mesh.read_workflow(self._options.workflow)
        await self._discover(mesh, processes)
        await self._profile(mesh, workflow)
        plan = await self._plan(mesh, workflow)
        victim = victim_of(plan, self._options.kill_worker)
        run = f"demo-{int(time.time())}"
        plan = await self._apply(mesh, plan, run)
        served = await self._serve(mesh, DemoSamples(plan.workflow, len(truth), victim), plan)
        return self._summary(mesh, plan, served, photos.read(self._sinks(), run, truth))

    # The steps

    async def _fetch(self, ladders: Ladders) -> None:
        wanted = [m for m in ladders.models if ladders.missing(m)]
        missing = sum(len(ladders.missing(m)) for m in wanted)
        here = sum(len(ladders.variants(m)) for m in ladders.models)
        self._step("fetch", f"{here} variants are here, {missing} are to be fetched and built")
        if not wanted:
            return
        with self._bars() as report:

            def watch(p: Fetching) -> None:
                report(Progress("fetch", p.task, p.done / max(p.total, 1)))

            await asyncio.to_thread(Fetcher(ladders, watch=watch).fetch, wanted)

    def _render(self) -> dict[str, list[str]]:
        self._step("render", f"{self._options.images} photos of signs whose text is known")
        cameras = [d.name for d in DEVICES if d.tier == DEVICES[0].tier]
        folders = [self._data(camera) / "signs" for camera in cameras]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        return photos.render(folders, self._options.images, self._options.seed)

    async def _discover(self, mesh: Mesh, processes: Sequence[AgentProcess]) -> None:
        self._step("discover", "agents announce themselves by zeroconf")
        found = await mesh.discover(expect=len(DEVICES), timeout_s=DISCOVER_S)
        for process in processes:
            process.check()
        lacking = {d.name for d in DEVICES} - {device.name for device in found}
        if lacking:
            raise TiermeshError(
                f"{', '.join(sorted(lacking))} did not announce themselves",
                why=f"waited {DISCOVER_S:g} s",
                fix=f"See the logs in {self._agents}",
            )
        self._say(tables.fleet_table(DEVICES))

    async def _profile(self, mesh: Mesh, workflow: Workflow) -> None:
        self._step("profile", "what has no profile yet; devices of one host take turns")
        with self._bars() as report:
            await mesh.profile(workflow, options=PROFILE, report=report)

    async def _plan(self, mesh: Mesh, workflow: Workflow) -> Plan:
        self._step("plan", "the least cost that meets rate, accuracy and latency")
        sizes = [p.stat().st_size for p in self._agents.glob("*/data/signs/*.jpg")]
        source_bytes = {"photos": sum(sizes) / len(sizes)}
        problem = await mesh.problem(workflow, source_bytes=source_bytes)
        plan = await asyncio.to_thread(solve, problem, PLAN)
        await mesh.plan_made(plan)
        self._say(tables.plan_table(plan, self._emulated))
        await asyncio.to_thread(self._compare, problem, plan)
        return plan

    def _compare(self, problem: Problem, plan: Plan) -> None:
        """Say what splitting requests over variants gains."""
        try:
            single = solve(problem, Options(single_variant=True, gap=PLAN.gap, time_limit_s=10.0))
        except TiermeshError as error:
            self._say(f"with one variant per stage for all requests: {error.what}")
            return
        cost, best = single.cost.total_per_hour, plan.cost.total_per_hour
        gain = f"{1 - best / cost:.0%} less" if best < cost * (1 - 1e-3) else "the same here"
        self._say(f"one variant per stage for all requests costs {cost:.4f} USD/h; this is {gain}")

    async def _apply(self, mesh: Mesh, plan: Plan, run: str) -> Plan:
        """Roll the plan out; returns it with what it predicts from what batches took just before it served."""
        self._step("roll out", "push, load, warm up, measure, self-test; then switch all devices")
        with self._bars() as report:
            applied = await mesh.apply(plan, run=run, measure_s=MEASURE_S, report=report)
        if applied.failures:
            raise TiermeshError(
                "the rollout failed and was undone",
                why="; ".join(f"{d}: {why}" for d, why in applied.failures.items()),
                fix=f"See the logs in {self._agents}",
            )
        self._say(f"generation {applied.generation} serves")
        corrected = mesh.fleet.expected.get(plan.workflow)
        if corrected is None or corrected.generation != applied.generation:
            return plan
        self._say(clean(corrected.text))
        now = msgspec.structs.replace(
            plan.predicted,
            latency_ms=corrected.latency_ms,
            latency_interval_ms=corrected.latency_interval_ms,
        )
        return msgspec.structs.replace(plan, predicted=now)

    async def _serve(self, mesh: Mesh, served: DemoSamples, plan: Plan) -> DemoSamples:
        rate = plan.predicted.throughput_rps
        self._step("serve", f"{served.requests} photos at {rate:g} a second, agent to agent")
        with Live(console=self._output.progress, refresh_per_second=4, transient=True) as live:

            def show(status: WorkflowStatus) -> None:
                ledger = ledger_line(status.ledger)
                live.update(Group(replica_table(status), ledger, *map(clean, served.events[-3:])))

            await served.watch(mesh, SERVE_FACTOR * served.requests / rate + SETTLE_S, show)
        return served

    async def _hold(self) -> None:
        self._output.progress.print("the mesh is held; Ctrl-C ends it")
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
        with contextlib.suppress(asyncio.CancelledError):
            await stop.wait()

    # The end

    def _summary(
        self, mesh: Mesh, plan: Plan, served: DemoSamples, reading: photos.PhotoText
    ) -> int:
        status = served.whole(mesh)
        ledger = status.ledger
        balanced = served.finished and ledger.balanced and ledger.results == reading.results
        good = balanced and served.recovered and not reading.wrong_form and not ledger.errors
        cost = sum(d.price_per_hour for d in DEVICES if d.name in served.used)
        self._say("[bold]serving, measured / predicted[/]")
        self._say(replica_table(status))
        self._say(tables.comparison_table(plan, reading.rate_rps, reading.latency_ms, cost))
        for line in self._findings(plan, reading):
            self._say(line)
        verdict = "[green]balanced[/]" if balanced else "[bold red]NOT BALANCED[/]"
        self._say(f"ledger: {ledger_line(ledger)}: {verdict}")
        self._say(verdict_line(status.attainment.verdict))
        for event in served.events:
            self._say(f"[yellow]event:[/] {clean(event)}")
        self._say("\n[bold]the same mesh by hand[/]")
        self._say(self._by_hand(), markup=False, no_wrap=True, overflow="ignore", crop=False)
        self._step("done", "all is well" if good else "something is wrong, see above")
        self._output.document(
            {
                "ok": good,
                "ledger": ledger,
                "balanced": balanced,
                "character_error_rate": 1 - reading.accuracy,
                "predicted": plan.predicted,
                "measured": {
                    "throughput_rps": reading.rate_rps,
                    "latency_ms": reading.latency_ms,
                    "cost_per_hour": cost,
                },
                "cost": plan.cost,
                "solver": plan.solver,
                "replicas": status.replicas,
                "request_errors": reading.errors,
                "wrong_form": reading.wrong_form,
                "events": served.events,
                "killed": served.killed,
                "seconds": time.monotonic() - self._begun,
            }
        )
        return 0 if good else 1

    def _findings(self, plan: Plan, reading: photos.PhotoText) -> list[str]:
        asked = plan.predicted.accuracy
        predicted = f" (predicted {1 - asked:.1%})" if asked is not None else ""
        return [
            f"read {reading.results} photos with {reading.characters} characters: "
            f"character error rate {1 - reading.accuracy:.1%}{predicted}",
            *(f"[red]no result:[/] {clean(why)}" for why in reading.errors[:SHOWN_FAULTS]),
            *(f"[red]wrong in form:[/] {clean(why)}" for why in reading.wrong_form[:SHOWN_FAULTS]),
        ]

    def _by_hand(self) -> str:
        state = f"--state {_as_typed(self._options.folder / 'coordinator')}"
        options = [state, f"--mesh {self._mesh}"]
        others = ", ".join(d.name for d in DEVICES[1:])
        commands = [
            ["agent", *DEVICES[0].arguments(_as_typed(self._agents), self._mesh), "&"],
            [f"# and so on for {others}; to keep them running: coordinator demo --hold"],
            ["coordinator devices", *options],
            ["coordinator plan", str(_as_typed(self._options.workflow)), *options, "-o plan.json"],
            ["coordinator apply plan.json --wait", *options],
            ["coordinator status", state],
        ]
        return "\n".join(_typed(words) for words in commands)

    def _bars(self) -> contextlib.AbstractContextManager[Report]:
        """Progress bars; a picture has none."""
        if self._options.picture is not None:
            return contextlib.nullcontext(silent)
        return bars(self._output)

    def _step(self, name: str, text: str) -> None:
        seconds = time.monotonic() - self._begun
        self._output.progress.print(f"[dim]{seconds:5.1f} s[/] [bold cyan]{name:>9}[/] {text}")

    def _data(self, device: str) -> Path:
        return self._agents / device / "data"

    def _sinks(self) -> list[Path]:
        return [self._data(d.name) / "out" / "text.jsonl" for d in DEVICES]


def _as_typed(path: Path) -> Path:
    """A path as one would type it here: relative where it lies below this folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _typed(words: Sequence[str]) -> str:
    """A command in lines that can be copied from a narrow terminal."""
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + len("  \\") > TYPED_COLUMNS:
            lines.append("   ")
        lines[-1] += " " + word
    return " \\\n".join(lines)


def _check(options: DemoOptions) -> None:
    names = [d.name for d in DEVICES]
    if options.kill_worker is not None and options.kill_worker not in [*names, agents.BUSIEST]:
        raise InvalidDocument(
            f"--kill-worker: there is no device `{options.kill_worker}`",
            fix=f"One of {', '.join(names)}, or {agents.BUSIEST}",
        )
    if not FEWEST_IMAGES <= options.images <= MOST_IMAGES:
        raise InvalidDocument(
            f"--images: {options.images} photos are too few or too many",
            fix=f"From {FEWEST_IMAGES} to {MOST_IMAGES}",
        )
