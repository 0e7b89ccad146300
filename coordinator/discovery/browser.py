"""Finding devices: browse zeroconf, ask what is found for its description, keep what is learned."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn

from coordinator.discovery.describe import Answer, describe_any
from coordinator.fleet import Desired
from coordinator.fleet.events import (
    DeviceDescribed,
    DeviceDiscovered,
    DeviceUnreachable,
    Event,
    Unreached,
)
from coordinator.fleet.instructions import Describe, Instruction
from coordinator.fleet.lifecycle import Reach
from coordinator.fleet.state import Sighting
from coordinator.journal.reconcile import Pursuit, Recording
from coordinator.sessions.channels import Channels
from tiermesh import limits, wire
from tiermesh.background import Background
from tiermesh.ids import DEFAULT_MESH

SERVICE: Final = "_tiermesh._tcp.local."
ZEROCONF: Final = "zeroconf"
RESOLVE_MS: Final = 1_000
RETRY_S: Final = 0.25
"""Between two attempts at a device that somebody waits for."""

_ANNOUNCED: Final = f"{ZEROCONF}:"


@dataclass(frozen=True, slots=True)
class Seen:
    """A device that announced itself; `sighting` is the key under which it is filed."""

    sighting: str
    addresses: tuple[str, ...]


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
        way = self._keeper.fleet.sightings[key]
        asking = partial(
            describe_any, self._channels, way.addresses, self._timeout_s, announced(key, way)
        )
        found = await asking()
        while isinstance(found, list) and _passing(found) and self._time_left():
            await asyncio.sleep(RETRY_S)
            found = await asking()
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


async def look_out(
    keeper: Recording,
    channels: Channels,
    *,
    now: Callable[[], float],
    timeout_s: float,
    again_s: float = 5.0,
) -> NoReturn:
    """Describe whatever is sighted, forever; addresses where nobody answered yet are asked again.

    A device that has described itself is left to its telemetry.
    """
    work = Describing(keeper, channels, now=now, timeout_s=timeout_s)
    while True:
        # Only what was never asked is described.
        await Pursuit(keeper, Desired(described={}), work, linger_s=again_s).run()
        silent = [k for k, way in keeper.fleet.sightings.items() if way.failures and not way.device]
        for events in await asyncio.gather(*(work(Describe(key)) for key in silent)):
            await keeper.record(*events)


def announced(key: str, way: Sighting) -> wire.PeerIdentity:
    """The device that a way must lead to; any agent where an operator named an address."""
    return wire.agent(key.removeprefix(_ANNOUNCED)) if way.via == ZEROCONF else wire.ANY_AGENT


def _passing(reasons: list[Unreached]) -> bool:
    return any(reason.reach in (Reach.REFUSED, Reach.TIMEOUT) for reason in reasons)


@contextlib.asynccontextmanager
async def watching_zeroconf(
    keeper: Recording, now: Callable[[], float], *, mesh: str, credentials: wire.Credentials
) -> AsyncGenerator[None]:
    """Record what announces itself to `mesh` while the context is open.

    OSError where there is no multicast.
    """
    async with browsing(mesh=mesh, credentials=credentials) as queue:
        background = Background()
        background.start(_pump(queue, keeper, now), "recording what announces itself")
        try:
            yield
        finally:
            await background.close()


async def _pump(queue: asyncio.Queue[Seen], keeper: Recording, now: Callable[[], float]) -> None:
    while True:
        seen = [await queue.get()]
        while not queue.empty():
            seen.append(queue.get_nowait())
        await keeper.record(*(sighted(now(), s.sighting, s.addresses, via=ZEROCONF) for s in seen))


def sighted(at: float, key: str, addresses: Iterable[str], *, via: str) -> DeviceDiscovered:
    """The event of a device seen, or named, at addresses."""
    return DeviceDiscovered(
        at=at, who="coordinator", sighting=key, addresses=list(addresses), via=via
    )


@contextlib.asynccontextmanager
async def browsing(
    *, mesh: str = DEFAULT_MESH, credentials: wire.Credentials = wire.LOOPBACK
) -> AsyncGenerator[asyncio.Queue[Seen]]:
    """Browse zeroconf while the context is open; what announces itself goes to the queue.

    All interfaces are browsed that the credentials allow. OSError where there is no multicast.
    """
    from zeroconf import ServiceStateChange
    from zeroconf.asyncio import AsyncServiceBrowser

    found: asyncio.Queue[Seen] = asyncio.Queue(limits.DEVICES)
    zeroconf = wire.multicast(credentials)
    resolving = Background()

    def changed(name: str, state_change: ServiceStateChange, **_: Any) -> None:
        if state_change is not ServiceStateChange.Removed and len(resolving) < limits.DEVICES:
            resolving.start(_resolve(zeroconf, name, mesh, found), f"resolving {name[:80]!r}")

    browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[_handler(changed)])
    try:
        yield found
    finally:
        await resolving.close()
        await browser.async_cancel()
        await zeroconf.async_close()


def _handler(changed: Callable[..., None]) -> Callable[..., None]:
    # zeroconf calls by keyword, and checks for exactly these four.
    def handle(zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
        changed(name, state_change)

    return handle


async def _resolve(zeroconf: Any, name: str, mesh: str, found: asyncio.Queue[Seen]) -> None:
    from zeroconf.asyncio import AsyncServiceInfo

    info = AsyncServiceInfo(SERVICE, name)
    if not await info.async_request(zeroconf.zeroconf, RESOLVE_MS) or info.port is None:
        return
    if (info.decoded_properties.get("mesh") or DEFAULT_MESH) != mesh:
        return
    advertised = (info.decoded_properties.get("id") or name.removesuffix("." + SERVICE))[:64]
    addresses = tuple(wire.join_address(host, info.port) for host in info.parsed_addresses())
    if addresses and not found.full():
        found.put_nowait(Seen(f"{_ANNOUNCED}{advertised}", addresses))
