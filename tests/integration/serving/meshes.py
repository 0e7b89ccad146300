"""A mesh of real workers on loopback: stage code in bundles, assignments from a few lines, conditions to wait on."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import textwrap
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent.rollout.store import Store
from agent.serving.supervisor import WorkerSettings, WorkerSupervisor
from tiermesh import ids, wire
from tiermesh.documents.assignment import (
    Assignment,
    Peer,
    ReplicaSpec,
    SinkSpec,
    SourceSpec,
    StageSpec,
)
from tiermesh.documents.plan import Lane
from tiermesh.documents.variant import Artifact, Bundle
from tiermesh.documents.workflow import Percentile

CODE = """
    import os
    import pathlib
    import time

    class Upper:
        def __init__(self, files, options):
            self.wait = options.get("wait", 0.0)
        def apply(self, payload):
            if self.wait:
                time.sleep(self.wait)
            if payload["name"].endswith("bad.txt"):
                raise ValueError("a bad file")
            return {"name": payload["name"], "text": payload["image"].decode().upper()}

    class Length:
        def __init__(self, files, options):
            pass
        def apply(self, payload):
            return {"name": payload["name"], "length": len(payload["image"])}

    class Both:
        def __init__(self, files, options):
            pass
        def join(self, payloads):
            return {**payloads["upper"], **payloads["length"]}

    class OddLength:
        def __init__(self, files, options):
            pass
        def keep(self, payload):
            return payload["length"] % 2 == 1

    class Loud:
        def __init__(self, files, options):
            pass
        def apply(self, payload):
            print('{"message": "done", "call": 1}', flush=True)
            return payload

    class Count:
        def __init__(self, files, options):
            pass
        def start(self, key):
            return {"count": 0, "last": ""}
        def fold(self, state, payload):
            after = {"count": state["count"] + 1, "last": payload["name"]}
            return after, {"name": payload["name"], "key": payload["key"], **state}
        def dump(self, state):
            return state
        def load(self, payload):
            return payload

    class Keyed:
        def __init__(self, files, options):
            pass
        def apply(self, payload):
            return {"name": payload["name"], "key": payload["name"][-5]}

    class Poisonable:
        def __init__(self, files, options):
            pass
        def apply(self, payload):
            if payload["name"].endswith("poison.txt"):
                os._exit(9)
            return payload

    class Hungry:
        def __init__(self, files, options):
            pass
        def apply(self, payload):
            if payload["name"].endswith("poison.txt"):
                bytes(10 * 2**30)
            return payload

    class Endless:
        def __init__(self, files, options):
            pass
        def apply(self, payload):
            while payload["name"].endswith("poison.txt"):
                pass
            return payload

    class Stalls:
        def __init__(self, files, options):
            if pathlib.Path("DATA/stall").exists():
                os.kill(os.getpid(), 19)
        def apply(self, payload):
            return payload

    class Deadly:
        def __init__(self, files, options):
            if pathlib.Path("DATA/die").exists():
                os._exit(3)
        def apply(self, payload):
            return payload
"""


class Device:
    """A device: its folders, and the supervisor of its worker."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.root = root / name
        self.data = self.root / "data"
        self.data.mkdir(parents=True)
        self.address = f"127.0.0.1:{wire.free_port()}"
        self.memory_bytes = 0
        self.events: list[tuple[str, str]] = []
        self.epochs = itertools.count(1)
        self.supervisor = self.new_supervisor()

    def new_supervisor(self, **more: Any) -> WorkerSupervisor:
        return WorkerSupervisor(
            WorkerSettings(
                device=self.name,
                data_address=self.address,
                data_folder=str(self.data),
                state_folder=str(self.root / "state"),
                store=str(self.root / "store"),
                memory_bytes=self.memory_bytes,
            ),
            next_epoch=lambda: next(self.epochs),
            on_event=lambda kind, text: self.events.append((kind, text)),
            **more,
        )

    def put(self, data: bytes) -> Artifact:
        digest = ids.digest_bytes(data)
        store = Store(self.root / "store")
        if not store.has(digest):
            with store.writer(digest, len(data)) as writer:
                writer.write(data)
                writer.finish()
        return Artifact(digest=digest, size_bytes=len(data))

    def results(self, name: str = "out.jsonl") -> list[dict[str, Any]]:
        path = self.data / name
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]


class Mesh:
    """Some devices, and the assignments of one workflow."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.devices = {name: Device(root, name) for name in names}
        self.code = textwrap.dedent(CODE)

    def __getitem__(self, name: str) -> Device:
        return self.devices[name]

    def offer(self, name: str, files: int) -> None:
        folder = self[name].data / "in"
        folder.mkdir(exist_ok=True)
        for index in range(files):
            (folder / f"{index:05d}.txt").write_text(f"file {index}")

    async def serve(self, assignments: dict[str, Assignment]) -> None:
        await self.prepare(assignments)
        await self.commit(assignments)

    async def prepare(self, assignments: dict[str, Assignment]) -> None:
        for name, assignment in assignments.items():
            await self[name].supervisor.prepare(assignment, lambda *_: None)

    async def commit(self, assignments: dict[str, Assignment]) -> None:
        async with asyncio.TaskGroup() as group:
            for name, assignment in assignments.items():
                commit = self[name].supervisor.commit(assignment.workflow, assignment.generation)
                group.create_task(commit)

    def is_finished(self, name: str) -> bool:
        """Whether all that a device's sources offer has ended."""
        sources = self[name].supervisor.figures.sources
        return bool(sources) and all(source.finished for source in sources)

    def describe(self) -> str:
        """What every device says of itself, for whoever wonders why a test failed."""
        return "\n".join(
            f"{d.name}: pid {d.supervisor.pid}, {d.supervisor.restarts} restarts, {d.events}, "
            f"{d.supervisor.figures}"
            for d in self.devices.values()
        )

    async def close(self) -> None:
        for device in self.devices.values():
            await device.supervisor.close()

    def assign(
        self,
        stages: dict[str, tuple[str, list[str], str]],
        lanes: list[tuple[float, dict[str, str], dict[str, str]]],
        *,
        rate: float = 200.0,
        generation: int = 1,
        deadline: float = 30.0,
        options: dict[str, Any] | None = None,
        sink_path: str = "out.jsonl",
        run: str = "run-1",
        formers: dict[str, str] | None = None,
        lost: Sequence[str] = (),
        latency_s: dict[Percentile, float] | None = None,
    ) -> dict[str, Assignment]:
        """Assignments by device. Stages: name to (kind, inputs, class); lanes: (share, stage to device, backup)."""
        specs = {
            name: StageSpec(
                name=name,
                key="key" if kind == "aggregate" else None,
                kind=kind,
                inputs=inputs,
                outputs=[n for n, (_, i, _) in stages.items() if name in i],
                source=SourceSpec(path="in", rate_rps=rate) if kind == "source" else None,
                sink=SinkSpec(kind="jsonl", path=sink_path) if kind == "sink" else None,
            )
            for name, (kind, inputs, _) in stages.items()
        }
        where = {
            f"{stage}@{device}": (stage, device)
            for _, path, backup in lanes
            for stage, device in (*path.items(), *backup.items())
        }
        return {
            name: Assignment(
                workflow="w",
                generation=generation,
                plan="sha256:" + "0" * 64,
                run=run,
                device=name,
                stages=specs,
                replicas=[
                    self._replica(name, replica, stage, stages[stage][2], options or {})
                    for replica, (stage, device) in where.items()
                    if device == name
                ],
                lanes=[
                    Lane(share=share, path=_ids(path), backup=_ids(backup))
                    for share, path, backup in lanes
                ],
                replica_devices={replica: device for replica, (_, device) in where.items()},
                peers={
                    d.name: Peer(device=d.name, name=d.name, address=d.address)
                    for d in self.devices.values()
                },
                formers=formers or {},
                lost=list(lost),
                latency_s=latency_s or {},
                deadline_seconds=deadline,
            )
            for name in self.devices
        }

    def _replica(
        self, device: str, replica: str, stage: str, entry: str, options: dict[str, Any]
    ) -> ReplicaSpec:
        if not entry:
            return ReplicaSpec(id=replica, stage=stage)
        code = self.code.replace("DATA", str(self[device].data))
        artifact = self[device].put(_zip(code))
        return ReplicaSpec(
            id=replica,
            stage=stage,
            bundle=Bundle(artifact=artifact, entry=f"code:{entry}"),
            options=options,
        )


def _ids(path: dict[str, str]) -> dict[str, str]:
    return {stage: f"{stage}@{device}" for stage, device in path.items()}


def _zip(code: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("code.py", code)
    return packed.getvalue()


async def until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Wait for a condition; fails with what did not happen."""
    try:
        async with asyncio.timeout(seconds):
            # It comes about in other processes: there is no event to wait on.
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what}") from None


def check_ledger(results: list[dict[str, Any]], accepted: int) -> Counter[str]:
    """No id twice, and as many endings as were accepted; returns them by outcome."""
    counted = Counter(line["id"] for line in results)
    assert [i for i, n in counted.items() if n > 1] == []
    assert len(results) == accepted, f"{len(results)} endings of {accepted}"
    return Counter(line["outcome"] for line in results)


CHAIN = {
    "photos": ("source", [], ""),
    "upper": ("map", ["photos"], "Upper"),
    "out": ("sink", ["upper"], ""),
}
