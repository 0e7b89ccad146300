"""Announcing this device over zeroconf (DNS-SD): an agent says that it is there, and who it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from agent.profiling.fingerprint import network
from tiermesh import PROTOCOL_VERSION, __version__, wire
from tiermesh.ids import DEFAULT_MESH

if TYPE_CHECKING:
    from zeroconf import ServiceInfo

log = logging.getLogger(__name__)

SERVICE: Final = "_tiermesh._tcp.local."
_PROPERTY_BYTES: Final = 255


class Named(Protocol):
    """What is announced of an identity; `agent.identity.Identity` is one."""

    @property
    def device_id(self) -> str:
        """The device's id."""
        ...

    @property
    def name(self) -> str:
        """Its name, for people."""
        ...


class Advertisement:
    """One agent's announcement, on the interfaces that its credentials allow.

    The instance is named after the device's id, which is unique. So there is nothing to probe for,
    which would take more than a second, and devices of equal names do not clash.
    """

    def __init__(
        self,
        identity: Named,
        *,
        tier: str,
        mesh: str = DEFAULT_MESH,
        host: str,
        port: int,
        data_address: str,
        credentials: wire.Credentials = wire.LOOPBACK,
        known: Callable[[], list[str]] | None = None,
    ) -> None:
        """`known` gives the addresses of this machine."""
        self._known = known or _addresses
        self._identity = identity
        self._host = host
        self._port = port
        self._credentials = credentials
        self._properties = {
            "id": identity.device_id,
            "name": identity.name,
            "tier": tier,
            "mesh": mesh,
            "protocol": str(PROTOCOL_VERSION),
            "version": __version__,
            "enrolled": "no",
            "data": data_address,
        }
        self._places = wire.Places([], [])
        # zeroconf's coroutines are typed without what they give.
        self._zeroconf: Any = None
        self._sending: asyncio.Future[object] | None = None

    async def start(self) -> None:
        """Announce. Without multicast this is logged, and the agent serves unannounced."""
        self._places = await asyncio.to_thread(self._find_places)
        if not self._places.addresses:
            log.warning(
                "not announced: %s takes no address that this machine has (%s); use another --host",
                self._host,
                ", ".join(self._places.interfaces) or "none beyond loopback",
            )
            return
        try:
            self._zeroconf = wire.multicast(self._credentials, self._places.interfaces)
            await self._send(
                await self._zeroconf.async_register_service(
                    self._info(), cooperating_responders=True
                )
            )
        except OSError as error:
            log.warning(
                "mDNS unavailable, not announced: %s; add this device by its address", error
            )
            await self.stop()

    def _find_places(self) -> wire.Places:
        return wire.announced(self._credentials, wire.first_address(self._host), self._known())

    async def update(self, **changed: str) -> None:
        """Announce changed properties."""
        self._properties |= changed
        if self._zeroconf is not None:
            await self._send(await self._zeroconf.async_update_service(self._info()))

    async def stop(self) -> None:
        """Say goodbye, so that browsers forget this device at once."""
        zeroconf, self._zeroconf = self._zeroconf, None
        await self._stop_sending()
        if zeroconf is not None:
            await zeroconf.async_close()

    async def _send(self, broadcasts: Awaitable[object]) -> None:
        """Let the broadcasts go on by themselves; the first goes with the loop's next turn."""
        await self._stop_sending()
        self._sending = asyncio.ensure_future(broadcasts)
        await asyncio.sleep(0)

    async def _stop_sending(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
            self._sending = None

    def _info(self) -> ServiceInfo:
        from zeroconf import ServiceInfo

        device = self._identity.device_id
        return ServiceInfo(
            SERVICE,
            f"{device}.{SERVICE}",
            port=self._port,
            properties={
                key: text.encode()[: _PROPERTY_BYTES - len(key) - 1]
                for key, text in self._properties.items()
            },
            server=f"{device}.local.",
            parsed_addresses=self._places.addresses,
        )


def _addresses() -> list[str]:
    return [address for each in network.addresses().values() for address in each]
