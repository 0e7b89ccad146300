"""Faults at random, from a seed: one of the carriers and one of the ends at a time, so that every stage can be reached.

``python -m tests.mesh.chaos``: 10,000 requests through a join while processes are killed and stopped, links are cut and
slowed, and clocks are set (where there is a C compiler). It prints the faults as they happen, how long the flow took to
come back after each, and the ledger.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mesh import wallclock
from tests.mesh.lab import Device, Lab, lab
from tests.mesh.network import unavailable
from tests.mesh.recovery import recovery_s

CARRIERS: Final = ("a", "b", "c")
LANES: Final = [
    {"left": ["a", "b"], "right": ["b", "c"], "both": ["c", "a"]},
    {"left": ["b", "c"], "right": ["c", "a"], "both": ["a", "b"]},
    {"left": ["c", "a"], "right": ["a", "b"], "both": ["b", "c"]},
]
SETTLE_S: Final = 90.0
CLOCKS_S: Final = (3_600.0, -3_600.0, 86_400.0, 0.0)
"""How far off a device's clock is set, one after the other."""


@dataclass(frozen=True)
class Fault:
    """What was done to whom, when (Unix seconds), and for how long."""

    at: float
    what: str
    whom: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """How a run ended: the ledger by outcome, what the errors say, and the faults with their recovery times."""

    requests: int
    outcomes: Counter[str]
    errors: Counter[str]
    recoveries: Sequence[tuple[Fault, float]]


class Chaos:
    """Does something to somebody, again and again, until it is told to end."""

    def __init__(self, made: Lab, rng: random.Random, say: Callable[[str], None]) -> None:
        self._lab = made
        self._rng = rng
        self._say = say
        self._ending = asyncio.Event()
        self.faults: list[Fault] = []
        self._kinds: dict[str, Callable[[Device, float], Awaitable[None]]] = {
            "kill -9 of the agent": self._kill_agent,
            "kill -9 of the worker": self._kill_worker,
            "SIGSTOP of the agent": self._stop_agent,
            "SIGSTOP of the worker": self._stop_worker,
            "link cut": self._cut,
            "link slowed": self._slow,
        }
        if made.coordinator.clock is not None:
            self._kinds["clock set, then kill -9 of the worker"] = self._set_clock
        self._clocks = {name: itertools.cycle(CLOCKS_S) for name in made.devices}

    async def run(self) -> None:
        """Both loops, until `end`; what is under way is undone first."""
        # Two generators, so that the seed decides whatever the timing.
        rngs = [random.Random(self._rng.random()) for _ in range(2)]
        carriers = [self._lab.devices[name] for name in self._lab.carriers]
        await asyncio.gather(
            self._loop(rngs[0], carriers), self._loop(rngs[1], [self._lab.devices["src"]])
        )

    def end(self) -> None:
        """No more faults."""
        self._ending.set()

    async def _loop(self, rng: random.Random, victims: Sequence[Device]) -> None:
        source = "src" in {victim.name for victim in victims}
        while not await self._pause(rng.uniform(3.0, 6.0) if source else rng.uniform(0.5, 2.5)):
            device, seconds = rng.choice(victims), rng.uniform(0.5, 3.0)
            if source and rng.random() < 0.4:
                await self._coordinator(seconds)
                continue
            kind = rng.choice(list(self._kinds))
            self._note(kind, device.name, seconds)
            await self._kinds[kind](device, seconds)

    async def _pause(self, seconds: float) -> bool:
        """Wait; True where it is time to end."""
        try:
            await asyncio.wait_for(self._ending.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _note(self, what: str, whom: str, seconds: float) -> None:
        self.faults.append(Fault(time.time(), what, whom, seconds))
        self._say(f"{what} {whom}, for {seconds:.1f} s")

    async def _coordinator(self, seconds: float) -> None:
        self._note("kill -9 of the coordinator", "coord", seconds)
        await self._lab.coordinator.kill()
        await asyncio.sleep(seconds)
        await self._lab.coordinator.start()

    async def _kill_agent(self, device: Device, seconds: float) -> None:
        await device.kill()
        await asyncio.sleep(seconds)
        await device.start()

    async def _kill_worker(self, device: Device, _seconds: float) -> None:
        device.signal(signal.SIGKILL, worker=True)

    async def _stop_agent(self, device: Device, seconds: float) -> None:
        await self._stop(device, seconds, worker=False)

    async def _stop_worker(self, device: Device, seconds: float) -> None:
        await self._stop(device, seconds, worker=True)

    async def _stop(self, device: Device, seconds: float, *, worker: bool) -> None:
        device.signal(signal.SIGSTOP, worker=worker)
        await asyncio.sleep(seconds)
        device.signal(signal.SIGCONT, worker=worker)

    async def _cut(self, device: Device, seconds: float) -> None:
        self._lab.network.down(device.name)
        await asyncio.sleep(seconds)
        self._lab.network.up(device.name)

    async def _slow(self, device: Device, seconds: float) -> None:
        self._lab.network.slow(device.name, 0.5)
        await asyncio.sleep(seconds)
        self._lab.network.fast(device.name)

    async def _set_clock(self, device: Device, _seconds: float) -> None:
        off = next(self._clocks[device.name])
        for process in (device, self._lab.coordinator):
            if process.clock is not None:
                process.clock.set(off)
        device.signal(signal.SIGKILL, worker=True)


async def rampage(
    folder: Path, *, seed: int, requests: int, rate: int, say: Callable[[str], None]
) -> Report:
    """One run. Raises AssertionError where a request is lost, ends twice, or does not end."""
    async with lab(folder, *CARRIERS) as made:
        if not wallclock.unavailable():
            made.give_clocks()
        await made.serve(LANES, count=requests, rate=rate)
        await made.arrived(1, 30.0)
        # By this process's clock: that of the sink's device is set.
        finished: list[float] = []
        noting = asyncio.create_task(made.note_arrivals(finished))
        chaos = Chaos(made, random.Random(seed), say)
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
    return Report(
        requests=requests,
        outcomes=outcomes,
        errors=Counter(line.error for line in lines if line.outcome == "error"),
        recoveries=[(fault, recovery_s(finished, fault.at, rate)) for fault in chaos.faults],
    )


def shown(report: Report) -> str:
    """The ledger, and how fast the flow came back."""
    lines = [
        f"{report.requests} accepted = "
        + " + ".join(f"{count} {outcome}s" for outcome, count in sorted(report.outcomes.items()))
    ]
    lines += [f"  {count} x {error}" for error, count in report.errors.most_common()]
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
    return "\n".join(lines)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run it; 0 when the ledger balances and no request failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=100)
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
        work = rampage(Path(name), seed=seed, requests=args.requests, rate=args.rate, say=say)
        report = asyncio.run(work)
    _say(shown(report))
    _say(f"again: python -m tests.mesh.chaos --seed {seed}")
    return 0 if not report.errors else 1


if __name__ == "__main__":
    sys.exit(main())
