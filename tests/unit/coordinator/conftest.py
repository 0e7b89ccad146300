"""Devices, variants and plans that the tests of the coordinator share."""

from __future__ import annotations

import pytest

from coordinator.fleet import Fleet, apply, validate
from coordinator.fleet.events import DeviceDescribed
from coordinator.fleet.state import Description
from tiermesh import ids
from tiermesh.documents.fingerprint import Cpu, Emulation, Fingerprint, Runtime
from tiermesh.documents.plan import Cost, Lane, MadeFor, Plan, Predicted, Replica, Solver
from tiermesh.documents.profile import Point, Profile, Seconds
from tiermesh.documents.variant import Artifact, Bundle, Variant

AT = 1_000.0


class Made:
    """Makers of documents, each with sensible defaults."""

    def fingerprint(self, host="host-1", threads=2, slowdown=None):
        return Fingerprint(
            host=host,
            os="Linux",
            python="3.11",
            agent_version="0.1.0",
            cpu=Cpu(model="cpu", architecture="x86_64", cores_physical=2, cores_logical=2),
            memory_bytes=4_000_000_000,
            disk_bytes=10_000_000_000,
            runtimes=[Runtime(name="onnx", version="1.20")],
            threads=threads,
            emulated=Emulation(slowdown=slowdown) if slowdown else None,
        )

    def description(self, tier="edge", price=0.1, port=7001, share=0.7, generations=None, **fp):
        return Description(
            agent_version="0.1.0",
            protocol_version=1,
            tier=tier,
            price_per_hour=price,
            usable_share=share,
            data_address=f"127.0.0.1:{port}",
            fingerprint=self.fingerprint(**fp),
            generations=generations or {},
        )

    def described(self, device, *, at=AT, sighting=None, name=None, **description):
        address = description.pop("address", f"127.0.0.1:{7000 + len(device)}")
        return DeviceDescribed(
            at=at,
            who="test",
            sighting=sighting or device,
            address=address,
            device=device,
            name=name or device,
            description=self.description(**description),
        )

    def variant(self, name="v3", model="ocr-detect", runtime="onnx"):
        artifact = Artifact(digest=ids.digest_bytes(f"{model}/{name}".encode()), size_bytes=10)
        return Variant(
            model=model,
            name=name,
            runtime=runtime,
            precision="fp32",
            model_file="model.onnx",
            files={"model.onnx": artifact},
            bundle=self.bundle(model),
        )

    def bundle(self, name="code"):
        artifact = Artifact(digest=ids.digest_bytes(f"bundle {name}".encode()), size_bytes=5)
        return Bundle(artifact=artifact, entry="stage:Stage")

    def profile(
        self,
        device,
        variant,
        *,
        mean=0.05,
        threads=2,
        cannot_run=None,
        items=1.0,
        seen=(),
        out=100.0,
    ):
        def seconds(scale):
            value = mean * scale
            return Seconds(mean=value, p50=value, p75=value, p90=value, p95=value, p99=value)

        points = [
            Point(
                batch_size=b,
                threads=threads,
                samples=20,
                seconds=seconds(0.8 * b + 0.2),
                items_per_second=b / (mean * (0.8 * b + 0.2)),
                interval=0.05,
            )
            for b in (1, 2, 4)
        ]
        return Profile(
            device=device.id,
            device_class=device.device_class,
            model=variant.model,
            variant=variant.name,
            variant_digest=variant.digest,
            runtime=variant.runtime,
            runtime_version="1.20",
            agent_version="0.1.0",
            measured_at="2025-01-01T00:00:00Z",
            cannot_run=cannot_run,
            peak_memory_bytes=None if cannot_run else 80_000_000,
            bytes_out_per_request=None if cannot_run else out,
            items_per_request=items,
            request_items=list(seen),
            points=[] if cannot_run else points,
        )

    def plan(self, workflow="read", replicas=(("detect", "v3", "cam-1"),), lanes=None, **made_for):
        made = [
            Replica(
                id=f"{stage}@{device}" + (f"/{variant}" if variant else ""),
                stage=stage,
                variant=variant,
                device=device,
                items_per_second=1.0,
                batch_size=2,
                batch_timeout_ms=5.0,
            )
            for stage, variant, device in replicas
        ]
        return Plan(
            workflow=workflow,
            made_for=MadeFor(problem="sha256:" + "0" * 64, **made_for),
            solver=Solver(
                name="greedy",
                status="ok",
                termination="heuristic",
                objective=1.0,
                bound=None,
                gap=None,
                seconds=0.1,
            ),
            cost=Cost(compute_per_hour=1.0, network_per_hour=0.0, total_per_hour=1.0),
            predicted=Predicted(throughput_rps=1.0),
            replicas=made,
            lanes=lanes or [Lane(share=1.0, path={r.stage: r.id for r in made})],
        )


class FleetUnderTest:
    """A fleet that checks its invariants after every event."""

    def __init__(self) -> None:
        self.now = Fleet()
        self.happened = []

    def __call__(self, *happened):
        for event in happened:
            self.happened.append(event)
            self.now = apply(event, self.now)
            validate(self.now)
        return self.now


@pytest.fixture
def made():
    return Made()


@pytest.fixture
def fleet():
    under_test = FleetUnderTest()
    yield under_test
    validate(under_test.now)
