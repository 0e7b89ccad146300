"""Batching and latency: which batch size and timeout meet a latency at which device time and cost.

The laws: `unlimited` (serverless, exact), `chain` (one device, exact), `recursion` (1 to c devices, on given
arrivals). What they are asked about: `arrivals`, `fitting`, `forecast`, `service`. What is built on them: `choice` (the
best point of a grid), `published` (the choices that BATCH, SC'20, would have made). The planner's `settings` and
`figures` are made of them.
The policy itself, and the choice that a worker makes at run time, are in `tiermesh.batching`. Pure: no I/O, no clock,
no randomness but seeded generators passed in.
"""
