"""Announcing this device over zeroconf (DNS-SD): an agent says that it is there, and who it is."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from agent.profiling.fingerprint import network
from tiermesh import PROTOCOL_VERSION, __version__
from tiermesh.ids import DEFAULT_MESH
from tiermesh.wire import is_loopback, is_unspecified

if TYPE_CHECKING:
    from zeroconf import IPVersion, ServiceInfo

log = logging.getLogger(__name__)

SERVICE: Final = "_tiermesh._tcp.local."
_LOOPBACK: Final = "127.0.0.1"
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
        known: Callable[[], list[str]] | None = None,
    ) -> None:
        """`known` gives the addresses of this machine."""
        self._known = known or _addresses
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
        self._places = Places([], [])
        # zeroconf's coroutines are typed without what they give.
        self._zeroconf: Any = None
        self._sending: asyncio.Future[object] | None = None

    async def start(self) -> None:
        """Announce. Without multicast this is logged, and the agent serves unannounced."""
        from zeroconf.asyncio import AsyncZeroconf

        self._places = await asyncio.to_thread(self._find_places)
        if not self._places.addresses:
            log.warning(
                "not announced: %s takes no address that this machine has (%s); use another --host",
                self._host,
                ", ".join(self._places.interfaces) or "none beyond loopback",
            )
            return
        try:
            self._zeroconf = AsyncZeroconf(
                interfaces=self._places.interfaces, ip_version=_version(self._places.interfaces)
            )
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

    def _find_places(self) -> Places:
        host = self._host if is_unspecified(self._host) else _numeric(self._host)
        return places(host, self._known(), insecure_lan=self._insecure_lan)

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


def _version(interfaces: list[str]) -> IPVersion:
    from zeroconf import IPVersion

    kinds = {":" in address for address in interfaces}
    if len(kinds) > 1:
        return IPVersion.All
    return IPVersion.V6Only if True in kinds else IPVersion.V4Only


class Places(NamedTuple):
    """What is announced: the `addresses` of this device; and on which `interfaces`, by their addresses."""

    addresses: list[str]
    interfaces: list[str]


def places(host: str, known: Iterable[str], *, insecure_lan: bool) -> Places:
    """Where to announce an agent that listens on `host`, on a machine with the `known` addresses.

    Beyond loopback nothing is announced unless `insecure_lan`. ``0.0.0.0`` takes IPv4 only, ``::`` both. An address
    of a link alone (``fe80::``) leads nowhere without the name of an interface, which differs from host to host.
    """
    if is_unspecified(host) and insecure_lan:
        found = [one for one in known if _is_told(one)]
        taken = found if ":" in host else [one for one in found if ":" not in one]
        return Places(taken, found)
    here = [_LOOPBACK] if is_unspecified(host) or host == "localhost" else [host]
    return Places(here, [_LOOPBACK] if is_loopback(here[0]) or not insecure_lan else here)


def _is_told(address: str) -> bool:
    return not is_loopback(address) and not ipaddress.ip_address(address).is_link_local


def _addresses() -> list[str]:
    return [address for each in network.addresses().values() for address in each]


def _numeric(host: str) -> str:
    """A host's first address; a name that does not resolve stays as it is."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return host
