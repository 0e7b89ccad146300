"""Serving stages: frames in, batches through runtimes and stage code, frames out.

What decides is pure, and driven by the tests' simulated mesh as well as by the worker:

* `flow`: one workflow on one device. It is made of `generation` (lanes and queues of a plan), `router` and `graph`
  (where frames go), `batcher` (which batch runs next), `tuner` (its
  setting when arrivals drift), `meetings` (joins and unions), `post` (frames between stages and
  devices), `sources`, `source`, `ledger` and `arrivals` (the end-to-end promise), `sink`, and `links` over the ends of
  the streams (`streams.sender`, `streams.receiver`).

What acts: `worker` is the process, `host` drives the flows, `streams.transport` is gRPC, `compute`, `runners` and
`replicas` run models and stage code, `ends`, `spool`, `results` and `datafolder` are the files.

The agent's side is `supervisor`; it speaks `control` to the worker.
"""
