"""`--arrivals` of a simulation: how requests come, as a word or from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.cli.planning import read_file
from tiermesh import arrival_times
from tiermesh.errors import InvalidDocument

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from coordinator.planning.simulate import SimulatedLoad

WORDS = ("poisson", "constant")
HELP = (
    "poisson, constant, a file of recorded seconds (one a line) that are replayed, or FILE.json[#KEY] with a MAP, "
    "as for batching; default: as the workflow's sources"
)


def add_arrivals_option(parser: ArgumentParser) -> None:
    """Add the option that `with_arrivals` reads."""
    parser.add_argument("--arrivals", metavar="HOW", help=HELP)


def with_arrivals(load: SimulatedLoad, how: str | None, rate_rps: float) -> SimulatedLoad:
    """The load with these arrivals; a process is sampled at `rate_rps`, a record is replayed as it is.

    Raises:
        InvalidDocument: neither a word nor a file that says how requests come.
    """
    if how is None or how in WORDS:
        return _changed(load, arrivals=how)
    name, _, key = how.partition("#")
    path = Path(name)
    if not path.is_file():
        raise InvalidDocument(
            f"--arrivals {how} is neither {' nor '.join(WORDS)}, and there is no such file",
            fix="Name a file of recorded seconds, or of a MAP",
            path="--arrivals",
        )
    if path.suffix == ".json":
        return _changed(load, times=_sampled(path, key, load, rate_rps))
    return _changed(load, times=_recorded(path))


def _changed(load: SimulatedLoad, **fields: Any) -> SimulatedLoad:
    from dataclasses import replace

    return replace(load, **fields)


def _recorded(path: Path) -> list[float]:
    return arrival_times.read(read_file(path), path.name)


def _sampled(path: Path, key: str, load: SimulatedLoad, rate_rps: float) -> list[float]:
    import numpy as np

    from coordinator.planning.batching.documents import read_arrivals

    maps = read_arrivals(read_file(path), key, path.name)
    if len(maps) != 1:
        raise InvalidDocument(
            f"{path.name} has {len(maps)} MAPs here",
            fix=f"Name one: {path.name}#{key + '/' if key else ''}{next(iter(maps))}",
        )
    process = next(iter(maps.values())).at_rate(rate_rps)
    return process.sample(load.requests, np.random.default_rng(load.seed)).tolist()
