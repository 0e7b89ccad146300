"""Every scenario with many seeds: ``python -m tests.simulation.serving.sweep [SEEDS [FIRST]]``; prints what fails."""

from __future__ import annotations

import inspect
import sys
import time
import traceback
from collections.abc import Callable, Iterator

from tests.simulation.serving import test_aggregates, test_mesh, test_moves


def scenarios() -> Iterator[Callable[[int], None]]:
    """The tests that are run by seed."""
    for module in (test_mesh, test_aggregates, test_moves):
        for name, test in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("test_") and "seed" in inspect.signature(test).parameters:
                yield test


def main() -> int:
    """Run them all; 1 if one fails."""
    given = [int(word) for word in sys.argv[1:]]
    seeds, first = (given + [20, 0][len(given) :])[:2]
    failed = ran = 0
    began = time.monotonic()
    for seed in range(first, first + seeds):
        for test in scenarios():
            ran += 1
            try:
                test(seed)
            except AssertionError:
                failed += 1
                sys.stdout.write(f"{test.__name__}({seed})\n{traceback.format_exc(limit=-3)}\n")
    sys.stdout.write(f"{ran} runs, {failed} failed, {time.monotonic() - began:.0f} s\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
