"""Asking an address for its description, and saying why there is none."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio

from coordinator.fleet.events import Unreached
from coordinator.fleet.lifecycle import Reach
from coordinator.fleet.state import Description
from coordinator.sessions.channels import Channels
from tiermesh import PROTOCOL_VERSION, __version__, ids, limits, wire
from tiermesh.documents.fingerprint import Fingerprint
from tiermesh.documents.reading import decode_json
from tiermesh.errors import InvalidDocument, TiermeshError, Unsupported
from tiermesh.v1 import device_pb2, device_pb2_grpc

_DETAIL_CHARS: Final = 200


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


async def describe_any(
    channels: Channels,
    addresses: Iterable[str],
    timeout_s: float,
    expected: wire.PeerIdentity = wire.ANY_AGENT,
) -> Answer | list[Unreached]:
    """The first answer from any of a device's addresses, or for each of them why there is none.

    An answer of another device than the one `expected` does not count: an address such as 172.17.0.1, of a container's
    bridge, is on many hosts.
    """
    attempts = [
        asyncio.ensure_future(describe(channels, address, timeout_s, expected))
        for address in addresses
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


async def describe(
    channels: Channels,
    address: str,
    timeout_s: float,
    expected: wire.PeerIdentity = wire.ANY_AGENT,
) -> Answer:
    """Ask the agent at an address for its description.

    Raises:
        NoAnswer: with the reason.
    """
    try:
        stub = device_pb2_grpc.DeviceStub(channels.to(address, expected))
        request = device_pb2.DescribeRequest(
            protocol_version=PROTOCOL_VERSION, coordinator_version=__version__
        )
        reply = await stub.Describe(request, timeout=timeout_s)
        answer = _answer(address, reply)
    except grpc.aio.AioRpcError as error:
        raise NoAnswer(unreached_by(address, error)) from None
    except Unsupported as error:
        raise NoAnswer(Unreached(address, Reach.OTHER_VERSION, str(error))) from None
    except InvalidDocument as error:
        raise NoAnswer(Unreached(address, Reach.BAD_DESCRIPTION, _short(str(error)))) from None
    except wire.AddressRefused as error:
        raise NoAnswer(Unreached(address, Reach.NOT_LOOPBACK, _short(error.why))) from None
    except TiermeshError as error:
        raise NoAnswer(Unreached(address, Reach.OTHER, _short(str(error)))) from None
    if expected.device not in ("", answer.device):
        detail = f"{answer.name} ({answer.device}) answers there, not {expected.device}"
        raise NoAnswer(Unreached(address, Reach.OTHER_DEVICE, _short(detail)))
    return answer


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


_SILENT: Final = (
    "it accepts connections but does not answer: another program, or an agent that hangs"
)
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
            return Unreached(address, reach, _SILENT if sign == "settings" else "")
    return Unreached(address, Reach.OTHER, _short(f"{code.name}: {details}"))


def _short(text: str) -> str:
    return " ".join(text.split())[:_DETAIL_CHARS]
