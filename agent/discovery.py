"""Announcing this device over zeroconf (DNS-SD): an agent says that it is there, and who it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final, Protocol

from agent.profiling.fingerprint import network
from tiermesh import PROTOCOL_VERSION, __version__
from tiermesh.ids import DEFAULT_MESH
from tiermesh.wire import is_loopback

if TYPE_CHECKING:
    from zeroconf import ServiceInfo

log = logging.getLogger(__name__)

SERVICE: Final = "_tiermesh._tcp.local."
_LOOPBACK: Final = "127.0.0.1"
_ANY: Final = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not bound to
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
    """One agent's announcement, on loopback only unless `insecure_lan`.

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
        insecure_lan: bool = False,
    ) -> None:
        self._identity = identity
        self._host = host
        self._port = port
        self._insecure_lan = insecure_lan
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
        # zeroconf's coroutines are typed without what they give.
        self._zeroconf: Any = None
        self._sending: asyncio.Future[object] | None = None

    async def start(self) -> None:
        """Announce. Without multicast this is logged, and the agent serves unannounced."""
        from zeroconf import IPVersion
        from zeroconf.asyncio import AsyncZeroconf

        interfaces = _interfaces(self._host, insecure_lan=self._insecure_lan)
        try:
            self._zeroconf = AsyncZeroconf(interfaces=interfaces, ip_version=IPVersion.V4Only)
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
            parsed_addresses=_interfaces(self._host, insecure_lan=self._insecure_lan),
        )


def _interfaces(host: str, *, insecure_lan: bool) -> list[str]:
    """The IPv4 addresses to announce, each on its own interface."""
    if not insecure_lan:
        return [_LOOPBACK]
    if host not in _ANY:
        return [host]
    found = [address for each in network.addresses().values() for address in each]
    return [one for one in found if ":" not in one and not is_loopback(one)] or [_LOOPBACK]
