"""Faults at random, from a seed, and the record of who could not be reached when.

Short faults hit one of the carriers and one of the ends at a time, so that every stage can be reached by the lanes and
their backups alone. Long ones, where the mesh plans again, take carriers away until they are given up.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from tests.mesh.lab import Device, Lab

SHORT_S: Final = (0.5, 3.0)
LONG_S: Final = (6.0, 18.0)
"""Longer than the silence after which a device is given up."""
CLOCKS_S: Final = (3_600.0, -3_600.0, 86_400.0, 0.0)
"""How far off a device's clock is set, one after the other."""
Act: TypeAlias = Callable[[Device, float], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """What was done to whom, when (Unix seconds), and for how long."""

    at: float
    what: str
    whom: str
    seconds: float


@dataclass(frozen=True)
class Outage:
    """A device that could not be reached, from and until when (Unix seconds)."""

    device: str
    since: float
    until: float


class Chaos:
    """Does something to somebody, again and again, until it is told to end.

    With `long`, carriers also go away for longer than they are waited for, and once all of them for `blackout_s`.
    """

    def __init__(
        self,
        made: Lab,
        rng: random.Random,
        say: Callable[[str], None],
        *,
        long: bool = False,
        blackout_s: float = 0.0,
    ) -> None:
        self._lab = made
        self._rng = rng
        self._say = say
        self._long = long
        self._blackout_s = blackout_s
        self._ending = asyncio.Event()
        self._busy = {name: asyncio.Lock() for name in made.devices}
        self.faults: list[Fault] = []
        self.outages: list[Outage] = []
        self._cutting: dict[str, Act] = {
            "kill -9 of the agent": self._kill_agent,
            "SIGSTOP of the worker": self._stop_worker,
            "link cut": self._cut,
        }
        self._short: dict[str, Act] = {
            **self._cutting,
            "kill -9 of the worker": self._kill_worker,
            "SIGSTOP of the agent": self._stop_agent,
            "link slowed": self._slow,
        }
        if made.coordinator.clock is not None:
            self._short["clock set, then kill -9 of the worker"] = self._set_clock
        self._clocks = {name: itertools.cycle(CLOCKS_S) for name in made.devices}

    async def run(self) -> None:
        """All loops, until `end`; what is under way is undone first."""
        # A generator each, so that the seed decides whatever the timing.
        rngs = [random.Random(self._rng.random()) for _ in range(3)]
        carriers = [self._lab.devices[name] for name in self._lab.carriers]
        loops = [self._harass(rngs[0], carriers), self._harass_ends(rngs[1])]
        if self._long:
            loops.append(self._take_away(rngs[2], carriers))
        await asyncio.gather(*loops)

    def end(self) -> None:
        """No more faults."""
        self._ending.set()

    async def _harass(self, rng: random.Random, carriers: Sequence[Device]) -> None:
        while not await self._pause(rng.uniform(0.5, 2.5)):
            device, seconds = rng.choice(carriers), rng.uniform(*SHORT_S)
            await self._do(rng.choice(list(self._short)), device, seconds)

    async def _harass_ends(self, rng: random.Random) -> None:
        while not await self._pause(rng.uniform(3.0, 6.0)):
            seconds = rng.uniform(*SHORT_S)
            if rng.random() < 0.4:
                await self._coordinator(seconds)
            else:
                await self._do(rng.choice(list(self._short)), self._lab.devices["src"], seconds)

    async def _take_away(self, rng: random.Random, carriers: Sequence[Device]) -> None:
        """One carrier at a time for long; the third time all of them."""
        times = 0
        while not await self._pause(rng.uniform(4.0, 8.0)):
            times += 1
            kind, seconds = rng.choice(list(self._cutting)), rng.uniform(*LONG_S)
            if times == 3 and self._blackout_s:
                await asyncio.gather(*(self._do(kind, c, self._blackout_s) for c in carriers))
            else:
                await self._do(kind, rng.choice(carriers), seconds)

    async def _do(self, kind: str, device: Device, seconds: float) -> None:
        """One fault; a device has one at a time."""
        async with self._busy[device.name]:
            if not self._ending.is_set():
                self._note(kind, device.name, seconds)
                await self._short[kind](device, seconds)

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

    @asynccontextmanager
    async def _unreachable(self, device: Device, seconds: float) -> AsyncGenerator[None]:
        """Out of reach for so long, and until what is done at the end is done."""
        since = time.time()
        try:
            yield
            await asyncio.sleep(seconds)
        finally:
            self.outages.append(Outage(device.name, since, time.time()))

    async def _coordinator(self, seconds: float) -> None:
        self._note("kill -9 of the coordinator", "coord", seconds)
        await self._lab.coordinator.kill()
        await asyncio.sleep(seconds)
        await self._lab.coordinator.start()

    async def _kill_agent(self, device: Device, seconds: float) -> None:
        async with self._unreachable(device, seconds):
            await device.kill()
        await device.start()

    async def _kill_worker(self, device: Device, _seconds: float) -> None:
        device.signal(signal.SIGKILL, worker=True)

    async def _stop_agent(self, device: Device, seconds: float) -> None:
        await self._stop(device, seconds, worker=False)

    async def _stop_worker(self, device: Device, seconds: float) -> None:
        async with self._unreachable(device, 0.0):
            await self._stop(device, seconds, worker=True)

    async def _stop(self, device: Device, seconds: float, *, worker: bool) -> None:
        device.signal(signal.SIGSTOP, worker=worker)
        await asyncio.sleep(seconds)
        device.signal(signal.SIGCONT, worker=worker)

    async def _cut(self, device: Device, seconds: float) -> None:
        async with self._unreachable(device, seconds):
            self._lab.network.down(device.name)
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
