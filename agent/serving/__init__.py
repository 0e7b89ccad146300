"""Serving stages: frames in, batches through runtimes and stage code, frames out.

What decides is pure, and driven by the tests' simulated mesh as well as by the worker:

* `flow`: one workflow on one device, made of the parts below; `instructions` are what it asks for, `batcher` says which
  batch runs next.
* `routing`: lanes and queues of a plan, where frames go, where branches meet.
* `ends`: sources with the end-to-end promise, and sinks. Their files are here, too.
* `aggregates`: the order in which stateful stages fold, and how their state moves. Its files are here, too.
* `streams.sender`, `streams.receiver`: the ends of the streams to other devices.
* `tuning.tuner`: a batch's setting when arrivals drift.

What acts: `worker` is the process, `host` drives the flows, `streams.transport` is gRPC, and `compute` runs models and
stage code.

The agent's side is `supervisor`; it speaks `control` to the worker.
"""
