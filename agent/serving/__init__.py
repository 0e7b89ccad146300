"""Serving stages: frames in, batches through runtimes and stage code, frames out.

What decides is pure, and driven by the tests' simulated mesh as well as by the worker:

* `flow`: one workflow on one device, made of the parts below; `instructions` are what it asks for, `batcher` says which
  batch runs next.
* `routing`: lanes and queues of a plan, where frames go, where branches meet.
* `endpoints`: sources with the end-to-end promise, and sinks.
* `aggregates`: the order in which stateful stages fold, and how their state moves.
* `streams`: the ends of the streams to other devices.
* `tuning.tuner`: a batch's setting when arrivals drift.

What acts: `worker` is the process and `host` drives the flows. `compute` runs models and stage code. What does the I/O
of a folder has its name and `_io`: `endpoint_io` has spools, results and the kinds of sources and sinks,
`aggregate_io` states on disk, `stream_io` gRPC.

The agent's side is `supervisor`; it speaks `control` to the worker.
"""
