"""Finding devices: browse zeroconf, ask each address for its description, say why one is silent."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

from coordinator.channels import Channels
from coordinator.fleet.events import Unreached
from coordinator.fleet.lifecycle import Reach
from coordinator.fleet.state import Description
from tiermesh import PROTOCOL_VERSION, __version__, ids, limits, wire
from tiermesh.documents.fingerprint import Fingerprint
from tiermesh.documents.reading import decode_json
from tiermesh.errors import InvalidDocument, TiermeshError, Unsupported
from tiermesh.ids import DEFAULT_MESH
from tiermesh.v1 import device_pb2, device_pb2_grpc

SERVICE: Final = "_tiermesh._tcp.local."
RESOLVE_MS: Final = 1_000
_DETAIL_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Seen:
    """A device that announced itself; `sighting` is the key under which it is filed."""

    sighting: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a device at `address` said of itself."""

    address: str
    device: str
    name: str
    description: Description


class NoAnswer(Exception):
    """An address did not lead to a device."""

    def __init__(self, unreached: Unreached) -> None:
        super().__init__(f"{unreached.address}: {unreached.reach}")
        self.unreached = unreached


@contextlib.asynccontextmanager
async def browsing(
    *, mesh: str = DEFAULT_MESH, insecure_lan: bool = False
) -> AsyncGenerator[asyncio.Queue[Seen]]:
    """Browse zeroconf while the context is open; what announces itself goes to the queue.

    Without `insecure_lan` only the loopback interface is browsed. OSError where there is no multicast.
    """
    from zeroconf import InterfaceChoice, IPVersion, ServiceStateChange
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

    found: asyncio.Queue[Seen] = asyncio.Queue(limits.DEVICES)
    interfaces = InterfaceChoice.All if insecure_lan else ["127.0.0.1"]
    zeroconf = AsyncZeroconf(interfaces=interfaces, ip_version=IPVersion.V4Only)
    resolving: set[asyncio.Task[None]] = set()

    def changed(name: str, state_change: ServiceStateChange, **_: Any) -> None:
        if state_change is not ServiceStateChange.Removed and len(resolving) < limits.DEVICES:
            task = asyncio.ensure_future(_resolve(zeroconf, name, mesh, found))
            resolving.add(task)
            task.add_done_callback(resolving.discard)

    browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[_handler(changed)])
    try:
        yield found
    finally:
        for task in resolving:
            task.cancel()
        await asyncio.gather(*resolving, return_exceptions=True)
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
        found.put_nowait(Seen(f"zeroconf:{advertised}", addresses))


async def describe_any(
    channels: Channels, addresses: Iterable[str], timeout_s: float
) -> Answer | list[Unreached]:
    """The first answer from any of a device's addresses, or for each of them why there is none."""
    attempts = [
        asyncio.ensure_future(describe(channels, address, timeout_s)) for address in addresses
    ]
    reasons: list[Unreached] = []
    try:
        for attempt in asyncio.as_completed(attempts):
            try:
                return await attempt
            except NoAnswer as silence:
                reasons.append(silence.unreached)
    finally:
        for attempt in attempts:
            attempt.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)
    return sorted(reasons, key=lambda reason: reason.address)


async def describe(channels: Channels, address: str, timeout_s: float) -> Answer:
    """Ask the agent at an address for its description.

    Raises:
        NoAnswer: with the reason.
    """
    try:
        stub = device_pb2_grpc.DeviceStub(channels.to(address))
        request = device_pb2.DescribeRequest(
            protocol_version=PROTOCOL_VERSION, coordinator_version=__version__
        )
        reply = await stub.Describe(request, timeout=timeout_s)
        return _answer(address, reply)
    except grpc.aio.AioRpcError as error:
        raise NoAnswer(unreached_by(address, error)) from None
    except Unsupported as error:
        raise NoAnswer(Unreached(address, Reach.OTHER_VERSION, str(error))) from None
    except InvalidDocument as error:
        raise NoAnswer(Unreached(address, Reach.BAD_DESCRIPTION, _short(str(error)))) from None
    except TiermeshError as error:
        raise NoAnswer(Unreached(address, Reach.NOT_LOOPBACK, _short(error.why))) from None


def _answer(address: str, reply: device_pb2.DescribeReply) -> Answer:
    if reply.protocol_version != PROTOCOL_VERSION:
        raise Unsupported(
            f"agent {_short(reply.agent_version) or 'of unknown version'} speaks protocol"
            f" {reply.protocol_version}, and coordinator {__version__} speaks {PROTOCOL_VERSION}"
        )
    _check_reply(reply)
    description = Description(
        agent_version=_short(reply.agent_version),
        protocol_version=reply.protocol_version,
        tier=reply.tier,
        price_per_hour=reply.price_per_hour,
        usable_share=reply.usable_share,
        data_address=reply.data_address,
        fingerprint=decode_json(reply.fingerprint, Fingerprint, "its fingerprint"),
        generations=dict(reply.generations),
    )
    return Answer(address, reply.device_id, reply.name[: limits.NAME_CHARS], description)


def _check_reply(reply: device_pb2.DescribeReply) -> None:
    wrong = {
        "device_id": not re.fullmatch(ids.NAME_PATTERN, reply.device_id),
        "tier": not re.fullmatch(ids.NAME_PATTERN, reply.tier),
        "price_per_hour": not (math.isfinite(reply.price_per_hour) and reply.price_per_hour >= 0),
        "usable_share": not 0 <= reply.usable_share <= 1,
    }
    for field, is_wrong in wrong.items():
        if is_wrong:
            found = _short(repr(getattr(reply, field)))
            raise InvalidDocument(f"its {field} cannot be used: {found}", path=f"$.{field}")
    try:
        wire.split_address(reply.data_address)
    except TiermeshError as error:
        raise InvalidDocument(f"its data_address: {error.what}", path="$.data_address") from None


_SIGNS: Final = (
    ("connection refused", Reach.REFUSED),
    ("no route", Reach.NO_ROUTE),
    ("unreachable", Reach.NO_ROUTE),
    ("dns resolution failed", Reach.UNRESOLVED),
    ("name or service not known", Reach.UNRESOLVED),
    ("domain name not found", Reach.UNRESOLVED),
    ("http1", Reach.NOT_AN_AGENT),
    ("http/1", Reach.NOT_AN_AGENT),
    ("parse", Reach.NOT_AN_AGENT),
    ("settings", Reach.NOT_AN_AGENT),
    ("timed out", Reach.TIMEOUT),
    ("timeout", Reach.TIMEOUT),
)


def unreached_by(address: str, error: grpc.aio.AioRpcError) -> Unreached:
    """Why a call to an address failed, as the operator can act on it."""
    details = error.details() or ""
    raised = wire.raised_by(error, address)
    if isinstance(raised, Unsupported):
        return Unreached(address, Reach.OTHER_VERSION, _short(str(raised)))
    code = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unreached(address, Reach.TIMEOUT)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Unreached(
            address, Reach.NOT_AN_AGENT, "it speaks gRPC, and does not describe itself"
        )
    for sign, reach in _SIGNS:
        if code is grpc.StatusCode.UNAVAILABLE and sign in details.lower():
            return Unreached(address, reach)
    return Unreached(address, Reach.OTHER, _short(f"{code.name}: {details}"))


def _short(text: str) -> str:
    return " ".join(text.split())[:_DETAIL_CHARS]
