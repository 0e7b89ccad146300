"""The published data, read once; tests that need it skip where it is absent."""

import json
from pathlib import Path

import numpy as np
import pytest

from coordinator.planning.batching.arrivals import MarkovianArrivals

_REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def published_data():
    for beside in (_REPOSITORY.parent, _REPOSITORY.parent.parent):
        folder = beside / "shared" / "data" / "batch"
        if (folder / "maps.json").exists():
            return folder
    pytest.skip("the published data (../shared/data/batch) is not here")


@pytest.fixture(scope="session")
def published_maps(published_data):
    maps = json.loads((published_data / "maps.json").read_text())
    return {
        trace: {
            name: MarkovianArrivals(np.array(hour["D0"]), np.array(hour["D1"]))
            for name, hour in hours.items()
        }
        for trace, hours in maps.items()
    }


@pytest.fixture(scope="session")
def assert_agrees():
    """Percentiles of a law against those of a simulation: within 0.5 %, up to three standard errors of the simulation.

    That is: at 0.5 % more than the law's percentile at least that share has been served, at 0.5 % less at most that
    share. The errors come from 20 blocks of the simulation, since requests of one busy period fare alike.
    """

    def check(percentile, run):
        blocks = np.array_split(run.latencies_s, 20)
        for quantile in (0.5, 0.95, 0.99):
            value = percentile(quantile)
            for factor, sign in ((1.005, 1), (0.995, -1)):
                served = [np.mean(block <= value * factor) for block in blocks]
                error = np.std(served, ddof=1) / np.sqrt(len(blocks))
                assert error < 0.01, "the simulation is too short to judge by"
                assert sign * (np.mean(served) - quantile) >= -3 * error, (quantile, factor, value)

    return check
