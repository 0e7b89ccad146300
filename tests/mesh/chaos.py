"""One run with faults at random, and what is demanded of it.

``python -m tests.mesh.chaos``: 10,000 requests through a join while processes are killed and stopped, links are cut and
slowed, and devices go away for long, so that the mesh plans again; for half a minute there are none at all. It prints
the faults and the replans, how long the flow took to come back after each fault, and the ledger. With
``--no-auto-replan`` faults are short, backups are all there is, and clocks are set, too (where there is a C compiler).
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from coordinator.fleet import events
from coordinator.fleet.liveness import TIMING
from coordinator.journal.store import Journal
from tests.mesh import wallclock
from tests.mesh.faults import Chaos, Fault
from tests.mesh.judging import Ending, Rollout, disorder, most_rollouts, undue
from tests.mesh.lab import Line, lab
from tests.mesh.network import unavailable
from tests.mesh.recovery import recovery_s

CARRIERS: Final = ("a", "b", "c")
LANES: Final = [
    {"left": ["a", "b"], "right": ["b", "c"], "both": ["c", "a"]},
    {"left": ["b", "c"], "right": ["c", "a"], "both": ["a", "b"]},
    {"left": ["c", "a"], "right": ["a", "b"], "both": ["b", "c"]},
]
SETTLE_S: Final = 90.0
DEADLINE_S: Final = 15.0
BLACKOUT_S: Final = 25.0


@dataclass(frozen=True)
class Report:
    """How a run ended: the ledger by outcome, what the errors say, faults with their recovery times, and replans.

    `wrong` is what must not have happened, in words.
    """

    requests: int
    outcomes: Counter[str]
    errors: Counter[str]
    recoveries: Sequence[tuple[Fault, float]]
    replans: Sequence[events.ReplanEnded] = ()
    rollouts: Sequence[Rollout] = ()
    wrong: Sequence[str] = field(default_factory=list[str])


async def rampage(
    folder: Path,
    *,
    seed: int,
    requests: int,
    rate: int,
    say: Callable[[str], None],
    replans: bool = False,
) -> Report:
    """One run. Raises AssertionError where a request is lost, ends twice, or does not end."""
    async with lab(folder, *CARRIERS, replans=replans) as made:
        # Where errors are judged by the record of faults, all times must be by one clock.
        if not replans and not wallclock.unavailable():
            made.give_clocks()
        await made.serve(LANES, count=requests, rate=rate, deadline_s=DEADLINE_S)
        await made.arrived(1, 30.0)
        # By this process's clock: that of the sink's device may be set.
        finished: list[float] = []
        noting = asyncio.create_task(made.note_arrivals(finished))
        chaos = Chaos(
            made, random.Random(seed), say, long=replans, blackout_s=BLACKOUT_S if replans else 0.0
        )
        work = asyncio.create_task(chaos.run())
        try:
            await asyncio.wait({work}, timeout=0.9 * requests / rate)
            chaos.end()
            await work
            await made.arrived(requests, SETTLE_S)
        finally:
            noting.cancel()
            work.cancel()
        outcomes = made.check_ledger(requests)
        lines = made.lines()
        happened = await asyncio.to_thread(_journal, folder / "state")
    rollouts = _rollouts(happened)
    return Report(
        requests=requests,
        outcomes=outcomes,
        errors=Counter(line.error for line in lines if line.outcome == "error"),
        recoveries=[(fault, recovery_s(finished, fault.at, rate)) for fault in chaos.faults],
        replans=[e for e in happened if isinstance(e, events.ReplanEnded)],
        rollouts=rollouts,
        wrong=_wrong(lines, chaos, rollouts) if replans else _errors(lines),
    )


def _errors(lines: Sequence[Line]) -> list[str]:
    """Where every stage could be reached all the time, each error is wrong."""
    return [f"{line.id}: {line.error}" for line in lines if line.outcome == "error"]


def _wrong(lines: Sequence[Line], chaos: Chaos, rollouts: Sequence[Rollout]) -> list[str]:
    """What must not have happened."""
    endings = [
        Ending(line.error, line.accepted_at, line.accepted_at + DEADLINE_S)
        for line in lines
        if line.outcome == "error"
    ]
    wrong = [
        f"ended in an error while a device was there: {ending.error}, accepted at {ending.accepted_at:.1f}"
        for ending in undue(endings, chaos.outages, CARRIERS)
    ]
    wrong += disorder(rollouts)
    most = most_rollouts(chaos.outages, TIMING.gone_after_s)
    if len(rollouts) > most:
        wrong.append(f"{len(rollouts)} generations, and no more than {most} were called for")
    return wrong


def _journal(state: Path) -> list[events.Event]:
    journal = Journal.read_only(state)
    try:
        return [entry.event for entry in journal.events()]
    finally:
        journal.close()


def _rollouts(happened: Sequence[events.Event]) -> list[Rollout]:
    began = [e for e in happened if isinstance(e, events.RolloutStarted)]
    steps = [e for e in happened if isinstance(e, events.RolloutCommitted)]
    served = {
        g: max(e.at for e in steps if e.generation == g) for g in {e.generation for e in steps}
    }
    return [Rollout(e.generation, e.at, served.get(e.generation)) for e in began]


def shown(report: Report) -> str:
    """The ledger, what was planned, and how fast the flow came back."""
    lines = [
        f"{report.requests} accepted = "
        + " + ".join(f"{count} {outcome}s" for outcome, count in sorted(report.outcomes.items()))
    ]
    lines += [f"  {count} x {error}" for error, count in report.errors.most_common()]
    lines += [f"{len(report.rollouts)} generations, {len(report.replans)} replans"]
    lines += [
        f"  {replan.reason}: {replan.outcome}, generation {replan.generation} ({replan.why}; {replan.text})"
        for replan in report.replans
    ]
    by_kind: dict[str, list[float]] = {}
    for fault, seconds in report.recoveries:
        by_kind.setdefault(fault.what + (" (source)" if fault.whom == "src" else ""), []).append(
            seconds
        )
    lines += [
        f"  {kind}: {len(found)} times, back at full rate after {statistics.median(found):.2f} s"
        f" (median), {max(found):.2f} s (longest)"
        for kind, found in sorted(by_kind.items())
    ]
    lines += [f"WRONG: {what}" for what in report.wrong]
    return "\n".join(lines)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run it; 0 when the ledger balances and no request failed that could have been served."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--no-auto-replan", action="store_true")
    args = parser.parse_args()
    why = unavailable()
    if why:
        _say(f"skipped: {why}")
        return 0
    seed = args.seed if args.seed is not None else time.time_ns() % 1_000_000
    _say(f"seed {seed}: {args.requests} requests at {args.rate}/s")
    began = time.monotonic()

    def say(what: str) -> None:
        _say(f"{time.monotonic() - began:7.1f} s  {what}")

    with tempfile.TemporaryDirectory(prefix="tiermesh-chaos-") as name:
        work = rampage(
            Path(name),
            seed=seed,
            requests=args.requests,
            rate=args.rate,
            say=say,
            replans=not args.no_auto_replan,
        )
        report = asyncio.run(work)
    _say(shown(report))
    option = " --no-auto-replan" if args.no_auto_replan else ""
    _say(f"again: python -m tests.mesh.chaos --seed {seed}{option}")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
