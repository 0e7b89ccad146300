"""Agents for the tests: real gRPC servers on loopback whose behaviour each test sets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from blockbuster import blockbuster_ctx

from agent.control import ControlService
from agent.rollout.commands import RunningCommands
from agent.telemetry import EventLog
from coordinator.fleet import validate
from coordinator.mesh import Mesh
from tests.integration.coordinator.ladders import FakeLadders
from tiermesh import PROTOCOL_VERSION, ids, wire
from tiermesh.documents.fingerprint import Cpu, Emulation, Fingerprint, Runtime
from tiermesh.documents.plan import Cost, Lane, MadeFor, Plan, Predicted, Replica, Solver
from tiermesh.documents.profile import Point, Profile, Seconds
from tiermesh.documents.reading import decode_json, encode_json
from tiermesh.documents.variant import Variant
from tiermesh.errors import DigestMismatch, StaleGeneration, Unsupported
from tiermesh.session import Tenure
from tiermesh.v1 import (
    control_pb2_grpc,
    device_pb2,
    device_pb2_grpc,
    profiling_pb2,
    profiling_pb2_grpc,
    rollout_pb2,
    rollout_pb2_grpc,
    telemetry_pb2,
)

ROOT = Path(__file__).parents[3]
WORKFLOW = """
workflow: read
slo:
  rate: 4/s
  raw_data_stays_in: [edge]
stages:
  photos: {source: files, path: signs/, rate: 4/s}
  detect: {model: ocr-detect, from: photos}
  text: {sink: jsonl, path: out/text.jsonl, from: detect}
"""

LADDER = """
model = "ocr-detect"
stage = "stage"
model_file = "model.onnx"
{variants}
"""
VARIANT = """
[variants.{name}]
runtime = "onnx"
precision = "fp32"
licence = "Apache-2.0"
[variants.{name}.files."model.onnx"]
registry = "pypi"
package = "none"
version = "1"
package_bytes = 1
path = "model.onnx"
sha256 = "{sha256}"
size_bytes = {size}
"""


class FakeAgent(
    device_pb2_grpc.DeviceServicer,
    profiling_pb2_grpc.ProfilingServicer,
    rollout_pb2_grpc.ArtifactsServicer,
):
    """An agent that keeps the protocol and does no work. Tests change its fields.

    Its end of the control session is the real one; `start_again` forgets what a process would.
    """

    def __init__(self, device="dev-1", name=None, *, tier="edge", price=0.1, host="host-1", **more):
        self.device = device
        self.name = name or device
        self.tier = tier
        self.price = price
        self.threads = more.get("threads", 2)
        self.slowdown = more.get("slowdown")
        self.host = host
        self.protocol = PROTOCOL_VERSION
        self.usable_share = 0.7
        self.mean_s = 0.05
        self.disturbed = None
        self.data_address = "127.0.0.1:1"
        self.address = ""
        self.store = {}
        self.partial = {}
        self.free_bytes = 10**9
        self.reclaimable_bytes = 0
        self.kept_for = {}
        self.break_after = []
        self.pushed_bytes = 0
        self.fail = {}
        self.hold = {}
        self.calls = []
        self.generations = {}
        self.prepared = {}
        self.standing_by = {}
        self.samples = [telemetry_pb2.Sample(number=1, at=1.0)]
        self.measuring = 0
        self.gauge = None
        self.tenure = Tenure()
        self.start_again()

    def start_again(self):
        self.events = EventLog(lambda: 1.0)
        self.commands = RunningCommands(self)
        self.control = ControlService(
            self.device,
            self.commands,
            self.events,
            self.sample,
            tenure=self.tenure,
            keep_tenure=lambda tenure: setattr(self, "tenure", tenure),
            boot=uuid.uuid4().hex,
            clock=time.monotonic,
        )

    @property
    def fingerprint(self):
        return Fingerprint(
            host=self.host,
            os="Linux",
            python="3.11",
            agent_version="0.1.0",
            cpu=Cpu(model="cpu", architecture="x86_64", cores_physical=2, cores_logical=2),
            memory_bytes=4_000_000_000,
            disk_bytes=10**10,
            runtimes=[Runtime(name="onnx", version="1.20")],
            threads=self.threads,
            emulated=Emulation(slowdown=self.slowdown) if self.slowdown else None,
        )

    async def _meet(self, step, context=None):
        """Note the call; wait or fail where the test wants it."""
        self.calls.append(step)
        if step in self.hold:
            await self.hold[step].wait()
        if step in self.fail and context is None:
            raise self.fail[step]
        if step in self.fail:
            await wire.abort(context, self.fail[step])

    async def Describe(self, request, context):
        await self._meet("describe", context)
        return device_pb2.DescribeReply(
            protocol_version=self.protocol,
            agent_version="0.1.0",
            device_id=self.device,
            name=self.name,
            tier=self.tier,
            price_per_hour=self.price,
            data_address=self.data_address,
            fingerprint=encode_json(self.fingerprint),
            generations=self.generations,
            usable_share=self.usable_share,
        )

    async def Stat(self, request, context):
        await self._meet("stat", context)
        reply = rollout_pb2.StatReply(
            free_bytes=self.free_bytes, reclaimable_bytes=self.reclaimable_bytes
        )
        if request.keep_for:
            self.kept_for[request.keep_for] = request.generation
        for digest in request.digests:
            complete = digest in self.store
            held = self.store.get(digest, self.partial.get(digest, b""))
            reply.held[digest].CopyFrom(
                rollout_pb2.StatReply.Held(bytes=len(held), complete=complete)
            )
        return reply

    async def Push(self, request_iterator, context):
        await self._meet("push", context)
        chunks = aiter(request_iterator)
        first = await anext(chunks)
        digest, size = first.digest, first.size_bytes
        limit = self.break_after.pop(0) if self.break_after else None
        data = self.partial.get(digest, b"")
        yield rollout_pb2.PushReply(bytes=len(data))
        got = 0
        while limit == 0 or len(data) < size:
            if limit is not None and got >= limit:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the link broke")  # pyright: ignore[reportGeneralTypeIssues]
            chunk = await anext(chunks)
            data = self.partial[digest] = data + chunk.data
            self.pushed_bytes += len(chunk.data)
            got += len(chunk.data)
            if len(data) < size:
                yield rollout_pb2.PushReply(bytes=len(data))
        self.partial.pop(digest, None)
        if ids.digest_bytes(data) != digest:
            await wire.abort(context, DigestMismatch(f"{digest} arrived with other bytes"))
        self.store[digest] = data
        yield rollout_pb2.PushReply(bytes=size, complete=True)

    async def Collect(self, request, context):
        """Nothing is needed for anything, and nothing is freed."""
        await self._meet("collect", context)
        held = [
            rollout_pb2.CollectReply.Artifact(digest=digest, bytes=len(data), complete=True)
            for digest, data in sorted(self.store.items())
        ]
        return rollout_pb2.CollectReply(artifacts=held, free_bytes=self.free_bytes)

    async def Fetch(self, request, context):
        """What an agent says whose peers are of no use: the coordinator sends everything itself."""
        await self._meet("fetch", context)
        failures = {peer.name: "it is not a real agent" for peer in request.peers}
        yield rollout_pb2.FetchEvent(failures=failures)

    async def Profile(self, request, context):
        await self._meet("profile", context)
        variant = decode_json(request.variant, Variant, "the variant")
        missing = [a.digest for a in variant.artifacts if a.digest not in self.store]
        assert not missing, "profiled before its artifacts were pushed"
        if self.gauge is not None:
            self.gauge.enter(self)
        try:
            yield profiling_pb2.ProfileEvent(
                progress=profiling_pb2.ProfileProgress(done=0.5, doing="batch 1")
            )
            if "measure" in self.hold:
                await self.hold["measure"].wait()
            yield profiling_pb2.ProfileEvent(profile=encode_json(self._profile(variant, request)))
        finally:
            if self.gauge is not None:
                self.gauge.leave(self)

    def _profile(self, variant, request):
        runs = any(r.name == variant.runtime for r in self.fingerprint.runtimes)
        points = [
            Point(
                batch_size=b,
                threads=self.threads,
                samples=10,
                seconds=Seconds(**dict.fromkeys(Seconds.__struct_fields__, self.mean_s * b)),
                items_per_second=1 / self.mean_s,
                interval=0.01,
            )
            for b in request.batch_sizes
        ]
        return Profile(
            device=self.device,
            device_class=self.fingerprint.device_class,
            model=variant.model,
            variant=variant.name,
            variant_digest=variant.digest,
            runtime=variant.runtime,
            runtime_version="1.20",
            agent_version="0.1.0",
            measured_at="2025-01-01T00:00:00Z",
            cannot_run=None if runs else f"the runtime {variant.runtime} is not installed",
            peak_memory_bytes=1_000_000,
            disturbed=self.disturbed,
            bytes_out_per_request=1_000.0,
            points=points if runs else [],
        )

    async def prepare(self, assignment, report):
        await self._meet("prepare")
        running = self.generations.get(assignment.workflow, 0)
        if assignment.generation <= running:
            raise StaleGeneration(f"generation {running} runs here")
        for replica in assignment.replicas:
            report("load", replica.id, 0.1)
        await self._meet("load")
        self.prepared[assignment.workflow] = assignment

    async def commit(self, workflow, generation):
        await self._meet("commit")
        assignment = self.prepared.get(workflow)
        if assignment is not None and assignment.generation == generation:
            del self.prepared[workflow]
            self.generations[workflow] = generation
        elif self.generations.get(workflow) != generation:
            raise Unsupported("nothing is prepared")

    async def abort(self, workflow, generation):
        await self._meet("abort")
        if self.generations.get(workflow) == generation:
            raise StaleGeneration("it runs here", generation=generation)
        self.prepared.pop(workflow, None)

    async def stand_by(self, assignment):
        self.standing_by[assignment.workflow] = [r.id for r in assignment.replicas]

    async def stop(self, workflow, generation):
        await self._meet("stop")
        self.generations.pop(workflow, None)

    async def sample(self):
        """The next of `samples`; the last one again and again."""
        self.calls.append("sample")
        sample = telemetry_pb2.Sample()
        sample.CopyFrom(self.samples[0] if len(self.samples) == 1 else self.samples.pop(0))
        return sample


class Gauge:
    """How many agents of one host measured at the same time."""

    def __init__(self):
        self.now = {}
        self.most = {}
        self.all_now = 0
        self.all_most = 0

    def enter(self, agent):
        self.now[agent.host] = self.now.get(agent.host, 0) + 1
        self.all_now += 1
        self.most[agent.host] = max(self.most.get(agent.host, 0), self.now[agent.host])
        self.all_most = max(self.all_most, self.all_now)

    def leave(self, agent):
        self.now[agent.host] -= 1
        self.all_now -= 1


@pytest.fixture(autouse=True)
def no_blocking_call():
    """A blocking call of the coordinator in the event loop fails the test."""
    with blockbuster_ctx("coordinator") as blocking:
        # Handing work to a thread takes a lock for microseconds, and now and then finds it taken.
        for name in ("threading.Lock.acquire", "threading.Lock.acquire_lock"):
            blocking.functions[name].deactivate()
        yield


@pytest.fixture
async def serve():
    """Starts agents; each gets its `address`."""
    servers = {}
    started = []

    async def start(*agents, port=0):
        for agent in agents:
            server = wire.server(wire.LOOPBACK)
            device_pb2_grpc.add_DeviceServicer_to_server(agent, server)
            profiling_pb2_grpc.add_ProfilingServicer_to_server(agent, server)
            rollout_pb2_grpc.add_ArtifactsServicer_to_server(agent, server)
            control_pb2_grpc.add_ControlServicer_to_server(agent.control, server)
            bound = wire.bind(server, wire.LOOPBACK, "127.0.0.1", port)
            agent.address = f"127.0.0.1:{bound}"
            agent.data_address = f"127.0.0.1:{40_000 + len(servers)}"
            await server.start()
            servers[agent.address] = server
            started.append(agent)
        return agents

    async def stop(agent):
        await servers.pop(agent.address).stop(None)

    yield SimpleNamespace(start=start, stop=stop)
    await asyncio.gather(*(server.stop(None) for server in servers.values()))
    await asyncio.gather(*(agent.commands.close() for agent in started))


@pytest.fixture
def ladders(tmp_path):
    folder = tmp_path / "artifacts"
    folder.mkdir()
    return FakeLadders(folder)


@pytest.fixture
def open_mesh(tmp_path, ladders):
    """Opens a mesh on the test's state folder; its invariants are checked when it closes."""

    @contextlib.asynccontextmanager
    async def opened(**options):
        async with Mesh.open(tmp_path / "state", ladders=ladders, who="ada", **options) as mesh:
            yield mesh
            validate(mesh.fleet)

    return opened


@pytest.fixture
def workflow_file(tmp_path):
    path = tmp_path / "read.yaml"
    path.write_text(WORKFLOW)
    return path


def plan_for(problem, detect_on, *, variant="v3", source=None):
    """A plan written by hand: `detect` in equal shares on some devices, source and sink on one."""
    at = source or problem.devices[0].name
    replicas = [("photos", None, at), ("text", None, at)]
    replicas += [("detect", variant, device) for device in detect_on]
    made = [
        Replica(
            id=f"{stage}@{device}" + (f"/{v}" if v else ""),
            stage=stage,
            variant=v,
            device=device,
            rate_rps=4.0,
        )
        for stage, v, device in replicas
    ]
    fixed = {r.stage: r.id for r in made if r.stage != "detect"}
    lanes = [
        Lane(share=1 / len(detect_on), path={**fixed, "detect": r.id})
        for r in made
        if r.stage == "detect"
    ]
    return Plan(
        workflow=problem.name,
        made_for=MadeFor(
            problem=problem.digest, workflow=problem.workflow_digest, fleet=problem.fleet_digest
        ),
        solver=Solver(
            name="by hand",
            status="ok",
            termination="heuristic",
            objective=1.0,
            bound=None,
            gap=None,
            seconds=0.0,
        ),
        cost=Cost(compute_per_hour=0.2, network_per_hour=0.0, total_per_hour=0.2),
        predicted=Predicted(throughput_rps=4.0, latency_ms={"p50": 60.0}),
        replicas=made,
        lanes=lanes,
    )


@pytest.fixture
def make_plan():
    return plan_for


@pytest.fixture
def fake_agent():
    return FakeAgent


@pytest.fixture
def gauge():
    return Gauge()


@pytest.fixture
def ladder_folder(tmp_path):
    """A folder with a ladder of two variants, in `variants`, whose files are in the cache, in `home`."""
    variants = []
    cache = tmp_path / "home" / "artifacts" / "sha256"
    cache.mkdir(parents=True)
    for name in ("v3", "v4"):
        content = name.encode() * 1_000
        sha256 = hashlib.sha256(content).hexdigest()
        (cache / sha256).write_bytes(content)
        variants.append(VARIANT.format(name=name, sha256=sha256, size=len(content)))
    stage = tmp_path / "variants" / "ocr-detect" / "stage"
    stage.mkdir(parents=True)
    (stage / "stage.toml").write_text('entry = "code:Stage"\n')
    (stage / "code.py").write_text("class Stage: ...\n")
    (stage.parent / "ladder.toml").write_text(LADDER.format(variants="".join(variants)))
    return tmp_path


READ = """
workflow: read
slo: {rate: 4/s}
stages:
  photos: {source: files, path: signs/, rate: 4/s}
  detect: {model: ocr-detect, from: photos}
  text: {sink: jsonl, path: out/text.jsonl, from: detect}
"""


class Finished:
    """A command that ended."""

    def __init__(self, code, out, err):
        self.code = code
        self.out = out
        self.err = err

    @property
    def document(self):
        return json.loads(self.out)


@pytest.fixture
def folder(ladder_folder):
    """A ladder and a workflow."""
    (ladder_folder / "read.yaml").write_text(READ)
    return ladder_folder


@pytest.fixture
def environment(folder):
    """What commands of a test run with."""
    return {
        **os.environ,
        "TIERMESH_HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto")]),
        "COLUMNS": "200",
    }


@pytest.fixture
def started(folder, environment):
    """Starts a command in a process of its own."""

    async def start(*arguments, cwd=folder):
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "coordinator.cli", *map(str, arguments)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=cwd,
            env=environment,
        )

    return start


@pytest.fixture
def coordinator(started):
    """Runs a command in a process of its own to its end."""

    async def run(*arguments, **more):
        process = await started(*arguments, **more)
        out, err = await process.communicate()
        return Finished(process.returncode, out.decode(), err.decode())

    return run


@pytest.fixture
def start_coordinator(started, planned):
    """Starts a coordinator beside the planned two; it is at work when this returns."""

    async def start(*words):
        named = [w for a in planned for w in ("--device", a.address)]
        process = await started("run", "--no-browse", "--json", *words, *named)
        said = ""
        while "is at work" not in said:
            line = (await process.stderr.readline()).decode()
            assert line, said
            said += line
        return process

    return start


@pytest.fixture
async def standing(start_coordinator):
    """A coordinator at work beside the planned two."""
    process = await start_coordinator()
    yield process
    if process.returncode is None:
        process.terminate()
        await process.communicate()


@pytest.fixture
async def two(serve, fake_agent):
    """A cheap camera and a hub that is fast enough."""
    slow, fast = (
        fake_agent("cam-1", host="a", price=0.01, threads=1),
        fake_agent("hub-1", host="b", tier="hub"),
    )
    slow.mean_s, fast.mean_s = 0.4, 0.02
    return await serve.start(slow, fast)


@pytest.fixture
async def planned(two, folder):
    """The two, discovered and profiled, and a plan in plan.json."""
    from coordinator.mesh import Mesh
    from coordinator.profiling.profiler import ProfileOptions
    from coordinator.variants import Ladders
    from tiermesh.documents.reading import encode_json

    ladders = await asyncio.to_thread(Ladders.open, folder / "variants", folder / "home")
    async with Mesh.open(folder / "home" / "coordinator", ladders=ladders) as mesh:
        await mesh.discover([agent.address for agent in two], browse=False)
        workflow = await mesh.read_workflow(folder / "read.yaml")
        await mesh.profile(workflow, options=ProfileOptions(batch_sizes=(1,)))
        plan = await mesh.plan(workflow)
        (folder / "plan.json").write_bytes(encode_json(plan))
    return two
