"""What the benchmark runs on: BATCH's published hours, service models and grid; a device; hard arrivals."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordinator.planning.batching.arrivals import MarkovianArrivals
from coordinator.planning.batching.choice import SettingsGrid, steps_between
from coordinator.planning.batching.documents import read_arrivals, read_service
from coordinator.planning.batching.service import ServiceTimes

MODELS = ("TF-inceptionV4", "TF-resnetV2", "mxnet-resnet50")
MEMORIES = steps_between(1280, 3008, 64)
TIMEOUTS = steps_between(0.01, 0.49, 0.01)
DEVICE = ServiceTimes(0.004 + 0.001 * np.arange(1, 33))
"""v = 4 + b milliseconds."""
THREE_PHASES = MarkovianArrivals(
    np.array([[-30.0, 1.0, 0.5], [0.2, -4.0, 0.3], [2.0, 0.1, -90.0]]),
    np.array([[25.0, 2.0, 1.5], [3.0, 0.5, 0.0], [0.9, 7.0, 80.0]]),
)
OVERLOAD_BURSTS = MarkovianArrivals.mmpp((100.0, 1200.0), (10.0, 50.0))
"""On the device with B = 8 (667/s at most): bursts of 20 ms at nearly twice what it can serve."""


@dataclass(frozen=True)
class Data:
    """The published files."""

    folder: Path

    def hours(self) -> dict[str, MarkovianArrivals]:
        """The 48 hours by ``trace/hour``."""
        data = (self.folder / "maps.json").read_bytes()
        traces = [(trace, read_arrivals(data, trace, "maps.json")) for trace in ("NYS", "Twitter")]
        return {
            f"{trace}/{hour}": process for trace, hours in traces for hour, process in hours.items()
        }

    def bursty(self) -> dict[str, MarkovianArrivals]:
        """W14, W16 and W21."""
        return read_arrivals((self.folder / "maps.json").read_bytes(), "synthetic", "maps.json")

    def grid(self, model: str, batch_sizes: range) -> SettingsGrid:
        """BATCH's memory sizes and timeouts for a model, with these batch sizes."""
        service = read_service((self.folder / "service.json").read_bytes(), model, "service.json")
        return SettingsGrid(tuple(batch_sizes), TIMEOUTS, service.on(MEMORIES, 20, service.price))


def save(results: dict[str, object], path: Path) -> None:
    """Write the figures of a run."""
    path.write_text(json.dumps(results, indent=1) + "\n")
