"""What a worker does, as it is told to its agent and, through the agent unchanged, to the coordinator. Pure.

The message is the one of the wire: a figure is named in `telemetry.proto` and filled in here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.serving.endpoints.sink import OutcomeCounts, SinkState
from agent.serving.endpoints.source import SourceState
from agent.serving.flow import Flow
from agent.serving.routing.generation import ReplicaQueue
from tiermesh import histogram
from tiermesh.v1 import telemetry_pb2 as pb


def worker_figures(flows: Mapping[str, Flow], now: float) -> pb.WorkerFigures:
    """What the flows (by workflow) have done and have to do: all of one moment, `now` by the worker's clock."""
    figures = pb.WorkerFigures(at=now)
    for name, flow in flows.items():
        _add_replicas(figures, name, flow, now)
        _add_sources(figures, name, flow, now)
        _add_sinks(figures, name, flow)
    return figures


def _add_replicas(figures: pb.WorkerFigures, workflow: str, flow: Flow, now: float) -> None:
    for number, generation in flow.generations.items():
        for replica, queue in generation.queues.items():
            if queue.computes or queue.stage.kind not in ("source", "sink"):
                told = figures.replicas.add(workflow=workflow, generation=number, replica=replica)
                _fill_replica(told, queue, now)


def _fill_replica(told: pb.ReplicaSample, queue: ReplicaQueue, now: float) -> None:
    told.requests, told.items, told.batches = queue.requests, queue.items, queue.batches
    told.errors, told.ended_early = queue.errors, queue.ended_early
    told.busy_seconds = queue.busy(now)
    told.waiting = queue.batcher.waiting
    told.batch_size = queue.batcher.setting.batch_size
    told.batch_timeout_ms = 1000 * queue.batcher.setting.timeout_s
    told.batch_sizes.update(queue.batch_sizes)
    told.batch_seconds.update(queue.batch_seconds)
    histogram.fill(told.device_time, queue.device_time.histogram(now))


def _add_sources(figures: pb.WorkerFigures, workflow: str, flow: Flow, now: float) -> None:
    for source in flow.sources.by_key.values():
        if not source.retired or not source.is_finished or flow.is_of_run(source.key):
            _fill_source(figures.sources.add(workflow=workflow, stage=source.stage), source, now)


def _fill_source(told: pb.SourceSample, source: SourceState, now: float) -> None:
    ledger, counts = source.ledger, source.ledger.counts
    told.run = source.key.removesuffix(f".{source.stage}")
    told.accepted, told.confirmed, told.retried = counts.accepted, counts.confirmed, counts.retried
    told.errors, told.filtered = counts.errors, counts.filtered
    told.in_flight, told.waiting = ledger.in_flight, source.waiting(now)
    told.finished = source.is_finished
    told.confirmed_rps = ledger.latency.rate(now)
    told.retries_withheld = ledger.retries.withheld
    told.generation = ledger.lanes.generation
    told.lanes.update(ledger.lanes.by_lane)
    told.shares.update(source.shares)
    told.windows.extend(ledger.attainment.windows(now))
    histogram.fill(told.latency, ledger.latency.histogram(now))


def _add_sinks(figures: pb.WorkerFigures, workflow: str, flow: Flow) -> None:
    for stage, sink in flow.sinks.items():
        # One of a stage that has left, and at which nothing ended, only remembers what ended here before.
        if flow.has_stage(stage) or sink.counts != OutcomeCounts():
            _fill_sink(figures.sinks.add(workflow=workflow, stage=stage), sink)


def _fill_sink(told: pb.SinkSample, sink: SinkState) -> None:
    ends = sink.counts
    told.run = sink.run
    told.results, told.errors, told.filtered = ends.results, ends.errors, ends.filtered
    told.duplicates = ends.duplicates
