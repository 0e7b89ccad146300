"""A mesh of real processes in namespaces: agents, workers, a coordinator, a workflow with a join, and its ledger."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from tests.mesh.deploying import Deployment
from tests.mesh.network import Network
from tests.mesh.wallclock import WallClock, library
from tiermesh import ids, limits

ROOT: Final = Path(__file__).parents[2]
START_S: Final = 30.0
WORKFLOW: Final = """
workflow: chaos
slo: {{rate: {rate}/s, deadline: {deadline_s} s}}
stages:
  files: {{source: files, path: in, rate: {rate}/s, count: {count}, repeat: true, devices: [src]}}
  left:  {{map: left, from: files, devices: [{devices}]}}
  right: {{map: right, from: files, devices: [{devices}]}}
  both:  {{join: both, from: [left, right], devices: [{devices}]}}
  out:   {{sink: jsonl, path: out.jsonl, from: both, devices: [src]}}
"""
CODE: Final = """
class Stage:
    def __init__(self, files, options):
        pass

    def apply(self, payload):
        return {"NAME": payload["name"]}

    def join(self, payloads):
        return {"names": [payloads["left"]["left"], payloads["right"]["right"]]}
"""


class Line(msgspec.Struct):
    """What is used of a line in the sink's file; times in Unix seconds."""

    id: str
    outcome: str
    error: str = ""
    accepted_at: float = 0.0
    finished_at: float = 0.0


class Process:
    """A process of the product in a namespace, with a log of what it says."""

    def __init__(self, lab: Lab, name: str, *words: object) -> None:
        self.name = name
        self.clock: WallClock | None = None
        self._lab = lab
        self._words = [str(word) for word in words]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, or start it again; it ends with us."""
        clock = self.clock.environment if self.clock is not None else {}
        with (self._lab.folder / f"{self.name}.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._lab.network.command(self.name),
                sys.executable,
                *self._words,
                cwd=ROOT,
                env=self._lab.environment | clock,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.returncode is None

    async def kill(self) -> None:
        """Kill -9."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class Device(Process):
    """An agent with its worker."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.address = lab.network.add(name)
        self.folder = lab.folder / name
        words = ["run", "--name", name, "--mesh", lab.mesh, "--host", self.address]
        words += ["--insecure-lan", "--threads", "1", "--state", str(self.folder)]
        super().__init__(lab, name, "-m", "agent.cli", *words, "--exit-with-stdin")

    @property
    def worker(self) -> int | None:
        """Its worker's process id; None while there is none."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except OSError:
            return None
        for child in map(int, children):
            with contextlib.suppress(OSError):
                if b"agent.serving.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return child
        return None

    def signal(self, which: signal.Signals, *, worker: bool) -> bool:
        """Send a signal to the agent or to its worker; False where there is no worker."""
        pid = self.worker if worker else self.pid
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, which)
        return True


class Lab:
    """All of it: `devices` by name, `src` among them with source and sink, and the `coordinator`.

    With `replans` the coordinator plans again by itself, as it does for its users; without, backups are all there is.
    """

    def __init__(
        self, folder: Path, network: Network, *carriers: str, replans: bool = False
    ) -> None:
        self.folder = folder
        self.network = network
        self.mesh = f"lab-{uuid.uuid4().hex[:6]}"
        self.carriers = carriers
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto")]),
            "TIERMESH_HOME": str(folder / "home"),
        }
        self.devices = {name: Device(self, name) for name in ("src", *carriers)}
        network.add("coord")
        words = ["run", "--mesh", self.mesh, "--insecure-lan", "--state", str(folder / "state")]
        words += [] if replans else ["--no-auto-replan"]
        self.coordinator = Process(self, "coord", "-m", "coordinator.cli", *words)

    def give_clocks(self) -> None:
        """Each process from now on has a wall clock of its own, which can be set."""
        made = library(self.folder)
        for process in (self.coordinator, *self.devices.values()):
            process.clock = WallClock(made, self.folder / f"{process.name}.clock")

    async def serve(
        self,
        lanes: list[dict[str, list[str]]],
        *,
        count: int,
        rate: int,
        deadline_s: float = limits.REQUEST_DEADLINE_S,
    ) -> None:
        """Start it all, and roll out the workflow on these lanes of the carriers' (stage to device and backup)."""
        await asyncio.to_thread(self._write, count, rate, deadline_s)
        await asyncio.gather(*(device.start() for device in self.devices.values()))
        ends = {"files": ["src"], "out": ["src"]}
        deployment = Deployment(
            mesh=self.mesh,
            folder=str(self.folder),
            devices=len(self.devices),
            run="run",
            lanes=[{**lane, **ends} for lane in lanes],
        )
        deploying = await asyncio.create_subprocess_exec(
            *self.network.command("coord"),
            *deployment.command,
            cwd=ROOT,
            env=self.environment,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await deploying.communicate()
        if deploying.returncode:
            raise RuntimeError(f"the workflow was not rolled out:\n{said.decode()}\n{self.logs()}")
        await self.coordinator.start()

    def _write(self, count: int, rate: int, deadline_s: float) -> None:
        for name in ("left", "right", "both"):
            code = self.folder / name
            code.mkdir()
            (code / "stage.toml").write_text('entry = "code:Stage"\n')
            (code / "code.py").write_text(CODE.replace("NAME", name))
        workflow = WORKFLOW.format(
            rate=rate, count=count, devices=", ".join(self.carriers), deadline_s=deadline_s
        )
        (self.folder / "workflow.yaml").write_text(workflow)
        files = self.folder / "src" / "data" / "in"
        files.mkdir(parents=True)
        for number in range(20):
            (files / f"{number:02}.txt").write_text(f"word {number}")

    async def note_arrivals(self, times: list[float]) -> NoReturn:
        """Add when each line comes to the sink, in Unix seconds by this process's clock, until this is cancelled."""
        size = 0
        while True:
            new = await asyncio.to_thread(self._written, size)
            size += len(new)
            times += [time.time()] * new.count(b"\n")
            await asyncio.sleep(0.02)

    def _written(self, since: int = 0) -> bytes:
        try:
            with (self.folder / "src" / "data" / "out.jsonl").open("rb") as file:
                file.seek(since)
                return file.read()
        except FileNotFoundError:
            return b""

    def lines(self) -> list[Line]:
        """What has come to the sink; a line that is being written is left out."""
        data = self._written()
        whole = data[: data.rfind(b"\n") + 1]
        return msgspec.json.decode(b"[" + b",".join(whole.splitlines()) + b"]", type=list[Line])

    async def arrived(self, count: int, seconds: float) -> None:
        """Wait until the sink has so many lines."""
        try:
            async with asyncio.timeout(seconds):
                while len(await asyncio.to_thread(self.lines)) < count:
                    await asyncio.sleep(0.1)
        except TimeoutError:
            here = len(await asyncio.to_thread(self.lines))
            raise AssertionError(f"{here} of {count} within {seconds} s\n{self.logs()}") from None

    def check_ledger(self, count: int) -> Counter[str]:
        """Exactly one ending for each request that the source accepts; returns them by outcome."""
        endings = Counter(line.id for line in self.lines())
        assert [id_ for id_, times in endings.items() if times > 1] == [], "an id is there twice"
        expected = {ids.request_id("chaos", "run", index) for index in range(count)}
        assert endings.keys() == expected, "results + errors are not what was accepted"
        return Counter(line.outcome for line in self.lines())

    def logs(self) -> str:
        """The last that every process said."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}"
            for path in sorted(self.folder.glob("*.log"))
        )

    async def close(self) -> None:
        """Kill all processes."""
        for process in (self.coordinator, *self.devices.values()):
            if process.runs:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)
            await process.kill()


@contextlib.asynccontextmanager
async def lab(folder: Path, *carriers: str, replans: bool = False) -> AsyncGenerator[Lab]:
    """A lab, with devices that carry the stages. It leaves nothing but its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with Network() as network:
        made = Lab(folder, network, *carriers, replans=replans)
        try:
            yield made
        finally:
            await made.close()
