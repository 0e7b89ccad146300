"""Bringing a loaded variant to the speed at which it will serve, and telling that speed.

The first runs of a model take longer: memory is allocated for each shape, code and weights come into the caches. A
replica that switches then is slow for its first requests. And what was profiled hours ago may not hold now: what is
measured here, in the worker that will serve, says what the next requests will take.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from itertools import cycle, islice
from statistics import median
from typing import Final

from agent.model_host.inference import Inference, Item, by_shape
from tiermesh.frames import Payload

REST_S: Final = 0.1
"""Between two batches, as a device rests that is busy for a part of its time: back to back, models are faster than they
serve, since their code and weights stay in the caches."""
ENOUGH: Final = 40
"""Batches after which the mean is known well enough to tell whether a profile still holds."""


def measure(inference: Inference, batch_size: int, budget_s: float) -> float:
    """Put the samples through again and again, for `budget_s` seconds or `ENOUGH` batches; at least once.

    Returns:
        Mean device seconds of a batch of `batch_size` items, with its share of preparing and finishing requests: the
        median over rounds of all samples, since caches are cold at first, and other devices of the host load their
        models meanwhile. What an emulated device would wait is counted, and not waited for.
    """
    payloads = inference.samples()
    ends_at = time.perf_counter() + budget_s
    rounds: list[float] = []
    batches = 0
    with inference.counting():
        items = [item for payload in payloads for item in inference.prepare(payload)]
        for size in range(1, batch_size):
            _each_shape(inference, items, size, ends_at)
        each = max(-(-len(items) // batch_size), 1)
        while not rounds or (time.perf_counter() < ends_at and batches < ENOUGH):
            rounds.append(_round(inference, payloads, batch_size) / each)
            batches += each
    return median(rounds)


def _each_shape(inference: Inference, items: Sequence[Item], size: int, ends_at: float) -> None:
    """Batches smaller than planned come as well, and memory is allocated for each shape."""
    for group in by_shape(items):
        if time.perf_counter() < ends_at:
            inference.infer([items[i] for i in islice(cycle(group), size)])


def _round(inference: Inference, payloads: Sequence[Payload], batch_size: int) -> float:
    """Each request once, its items in batches with their neighbours: device seconds of all."""
    begun = inference.now()
    prepared = [inference.prepare(payload) for payload in payloads]
    items = [item for of in prepared for item in of]
    seconds = inference.now() - begun
    outputs: list[dict[str, object]] = [{} for _ in items]
    for first in range(0, len(items), batch_size):
        threading.Event().wait(REST_S)
        batch = items[first : first + batch_size]
        begun = inference.now()
        for group in by_shape(batch):
            made = inference.infer([batch[i] for i in group])
            for i, output in zip(group, made, strict=True):
                outputs[first + i] = output
        seconds += inference.now() - begun
    begun = inference.now()
    left = iter(outputs)
    for payload, of in zip(payloads, prepared, strict=True):
        inference.finish(payload, list(islice(left, len(of))))
    return seconds + inference.now() - begun
