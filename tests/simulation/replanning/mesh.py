"""Samples as agents send them, of a mesh with two cameras and a hub, drawn by a seed."""

from __future__ import annotations

from collections import Counter

import numpy as np

from tiermesh.documents.plan import Cost, Lane, MadeFor, Plan, Predicted, Replica, Solver
from tiermesh.documents.problem import (
    Asks,
    BatchTime,
    Problem,
    ProblemDevice,
    ProblemProfile,
    ProblemStage,
)
from tiermesh.v1 import telemetry_pb2 as pb

RATE = 4.0
LIMIT_S = 3.0
LENGTHS_S = (10, 60, 600, 3_600, 0)
CAMERAS = {"cam-1": 0.5, "cam-2": 0.5}
BATCH_S = 0.14
PROBLEM = Problem(
    name="read",
    tiers=["edge", "hub"],
    devices=[ProblemDevice(name=name, tier="edge") for name in (*CAMERAS, "hub-1")],
    stages=[
        ProblemStage(name="photos", kind="source", rate_rps=RATE),
        ProblemStage(name="detect", kind="model", variants=["v"]),
    ],
    edges=[],
    profiles=[
        ProblemProfile(
            stage="detect",
            variant="v",
            device="hub-1",
            batches=[BatchTime(batch_size=1, mean=BATCH_S)],
        )
    ],
    asks=Asks(latency_s={"p95": LIMIT_S}),
)
PLAN = Plan(
    workflow="read",
    made_for=MadeFor(problem=PROBLEM.digest),
    solver=Solver(
        name="hand",
        status="ok",
        termination="heuristic",
        objective=0.0,
        bound=None,
        gap=None,
        seconds=0.0,
    ),
    cost=Cost(compute_per_hour=0.0, network_per_hour=0.0, total_per_hour=0.0),
    predicted=Predicted(throughput_rps=RATE, latency_ms={"p95": 900.0}),
    replicas=[
        *(
            Replica(id=f"photos@{name}", stage="photos", device=name, items_per_second=share * RATE)
            for name, share in CAMERAS.items()
        ),
        Replica(
            id="detect@hub-1/v", stage="detect", variant="v", device="hub-1", items_per_second=RATE
        ),
    ],
    lanes=[Lane(share=1.0, path={"photos": "photos@cam-1", "detect": "detect@hub-1/v"})],
)


def constant(value):
    """A function of time, or a number for one that does not change."""
    return value if callable(value) else lambda _at: value


class Mesh:
    """What happens in each second: arrivals, batches with spread and spells of it, misses in clusters of five."""

    def __init__(self, seed, *, rate=RATE, slower=1.0, missed=0.0, spread=0.3):
        self._draw = np.random.default_rng(seed)
        self._rate, self._slower, self._missed = map(constant, (rate, slower, missed))
        self._spread = spread
        self._spell = 1.0
        self._accepted, self._owed = Counter(), Counter()
        self._ended = {name: [0] for name in CAMERAS}
        self._within = {name: [0] for name in CAMERAS}
        self._batches, self._batch_s = 0, 0.0

    def samples(self, at):
        """A sample of each device, one second after the last."""
        for name, share in CAMERAS.items():
            n = int(self._draw.poisson(self._rate(at) * share))
            self._accepted[name] += n
            self._serve(n, at)
            self._end(name, n, at)
            yield name, _sample(at, sources=[self._source(name)])
        yield "hub-1", _sample(at, replicas=[self._replica()])

    def _serve(self, n, at):
        if self._draw.random() < 0.1:
            self._spell = self._draw.uniform(0.9, 1.1)
        self._batches += n
        times = self._draw.gamma(1 / self._spread**2, self._spread**2, n) * BATCH_S
        self._batch_s += float(times.sum()) * self._spell * self._slower(at)

    def _end(self, name, n, at):
        """A cluster of misses goes on until it has its five."""
        share = self._missed(at)
        if share < 1:
            self._owed[name] += 5 * int(self._draw.poisson(n * share / 5))
        missed = n if share >= 1 else min(n, self._owed[name])
        self._owed[name] = max(self._owed[name] - missed, 0)
        self._ended[name].append(self._ended[name][-1] + n)
        self._within[name].append(self._within[name][-1] + n - missed)

    def _source(self, name):
        windows = []
        for length in LENGTHS_S:
            then = -1 - length if length and length < len(self._ended[name]) else 0
            ended = self._ended[name][-1] - self._ended[name][then]
            within = self._within[name][-1] - self._within[name][then]
            windows.append(pb.SloWindow(seconds=length, ended=ended, within={"p95": within}))
        accepted = self._accepted[name]
        return pb.SourceSample(
            workflow="read",
            stage="photos",
            run="run-1",
            accepted=accepted,
            in_flight=2,
            windows=windows,
        )

    def _replica(self):
        return pb.ReplicaSample(
            workflow="read",
            generation=1,
            replica="detect@hub-1/v",
            batches=self._batches,
            batch_sizes={1: self._batches},
            batch_seconds={1: self._batch_s},
        )


def _sample(at, **figures):
    return pb.Sample(at=at, generations={"read": 1}, figures=pb.WorkerFigures(**figures))
