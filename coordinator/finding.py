"""Finding the devices: the work of describing, fed by zeroconf and by addresses that are known."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Final

from coordinator.channels import Channels
from coordinator.discovery import Answer, Seen, browsing, describe_any
from coordinator.fleet.events import (
    DeviceDescribed,
    DeviceDiscovered,
    DeviceUnreachable,
    Event,
    Unreached,
)
from coordinator.fleet.instructions import Describe, Instruction
from coordinator.fleet.lifecycle import Reach
from coordinator.pursuit import Recording

RETRY_S: Final = 0.25
"""Between two attempts at a device that somebody waits for."""


class Describing:
    """The work of describing. `retry_s` is how long a silent device is asked again."""

    def __init__(
        self,
        keeper: Recording,
        channels: Channels,
        *,
        now: Callable[[], float],
        timeout_s: float,
        retry_s: float = 0.0,
    ) -> None:
        self._keeper = keeper
        self._channels = channels
        self._now = now
        self._answers: dict[str, Answer] = {}
        self._timeout_s = timeout_s
        self._until = asyncio.get_running_loop().time() + retry_s

    async def __call__(self, instruction: Instruction) -> Sequence[Event]:
        """Ask a sighting's addresses; silence is an event, not an exception."""
        assert isinstance(instruction, Describe)  # noqa: S101 - only these are desired
        key = instruction.sighting
        addresses = self._keeper.fleet.sightings[key].addresses
        found = await describe_any(self._channels, addresses, self._timeout_s)
        while isinstance(found, list) and _passing(found) and self._time_left():
            await asyncio.sleep(RETRY_S)
            found = await describe_any(self._channels, addresses, self._timeout_s)
        if isinstance(found, list):
            return [
                DeviceUnreachable(at=self._now(), who="coordinator", sighting=key, reasons=found)
            ]
        return [self._described(key, found)]

    def _described(self, key: str, answer: Answer) -> Event:
        first = self._answers.setdefault(answer.device, answer)
        # One agent says the same data address wherever it is asked; two agents cannot.
        if first.description.data_address != answer.description.data_address:
            detail = f"it has the identity of the device at {first.address}: was its folder copied?"
            reason = Unreached(answer.address, Reach.BAD_DESCRIPTION, detail)
            return DeviceUnreachable(
                at=self._now(), who="coordinator", sighting=key, reasons=[reason]
            )
        return DeviceDescribed(
            at=self._now(),
            who=answer.device,
            sighting=key,
            address=answer.address,
            device=answer.device,
            name=answer.name,
            description=answer.description,
        )

    def _time_left(self) -> bool:
        return asyncio.get_running_loop().time() + RETRY_S < self._until


def _passing(reasons: list[Unreached]) -> bool:
    return any(reason.reach in (Reach.REFUSED, Reach.TIMEOUT) for reason in reasons)


@contextlib.asynccontextmanager
async def watching_zeroconf(
    keeper: Recording, now: Callable[[], float], *, mesh: str, insecure_lan: bool
) -> AsyncGenerator[None]:
    """Record what announces itself to `mesh` while the context is open.

    OSError where there is no multicast.
    """
    async with browsing(mesh=mesh, insecure_lan=insecure_lan) as queue:
        pump = asyncio.ensure_future(_pump(queue, keeper, now))
        try:
            yield
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)


async def _pump(queue: asyncio.Queue[Seen], keeper: Recording, now: Callable[[], float]) -> None:
    while True:
        seen = [await queue.get()]
        while not queue.empty():
            seen.append(queue.get_nowait())
        await keeper.record(
            *(sighted(now(), s.sighting, s.addresses, via="zeroconf") for s in seen)
        )


def sighted(at: float, key: str, addresses: Iterable[str], *, via: str) -> DeviceDiscovered:
    """The event of a device seen, or named, at addresses."""
    return DeviceDiscovered(
        at=at, who="coordinator", sighting=key, addresses=list(addresses), via=via
    )
