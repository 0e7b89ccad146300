"""gRPC servers, their ports, and channels."""

from __future__ import annotations

import asyncio
from typing import Final

import grpc.aio

from tiermesh import limits
from tiermesh.errors import InvalidDocument, TiermeshError
from tiermesh.wire.addresses import is_unspecified, join_address, split_address
from tiermesh.wire.credentials import Credentials
from tiermesh.wire.peers import PeerIdentity

_KEEPALIVE_MS: Final = 1_000
_COMMON: Final = [
    ("grpc.max_receive_message_length", limits.GRPC_MESSAGE_BYTES),
    ("grpc.max_send_message_length", limits.GRPC_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_MS),
    ("grpc.http2.ping_timeout_ms", _KEEPALIVE_MS),
]
# A client that pings each second would be told to go away by a server with the default limits.
_SERVER: Final = [
    *_COMMON,
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", _KEEPALIVE_MS // 2),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
]
# The default back-off costs seconds after an outage of one.
_CHANNEL: Final = [
    *_COMMON,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


def server(credentials: Credentials) -> grpc.aio.Server:
    """A server without ports; add services, then `bind`, then start it."""
    return grpc.aio.server(options=_SERVER, interceptors=list(credentials.interceptors()))


def bind(server: grpc.aio.Server, credentials: Credentials, host: str, port: int) -> int:
    """Open a port of a server, 0 for a free one, and return its number.

    Raises:
        AddressRefused: the credentials do not allow the address.
        TiermeshError: the port is taken, or the address is none of this machine.
    """
    address = join_address(host, port)
    credentials.check(host, address, "listen on")
    security = credentials.server_security()
    try:
        if security is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, security)
    except RuntimeError as error:
        raise cannot_listen(address, str(error).splitlines()[0]) from None


def cannot_listen(address: str, why: str) -> TiermeshError:
    """The error of a port that cannot be opened."""
    return TiermeshError(
        f"cannot listen on {address}",
        why=why,
        fix="Choose another port, or 0 for a free one",
        address=address,
    )


def channel(credentials: Credentials, address: str, expected: PeerIdentity) -> grpc.aio.Channel:
    """A channel to ``host:port``, where `expected` should be; nothing is connected yet.

    Raises:
        AddressRefused: the credentials do not allow the address.
        InvalidDocument: it is no address.
    """
    host, _ = split_address(address)
    credentials.check(host, address, "connect to")
    security = credentials.channel_security(expected)
    if security is None:
        return grpc.aio.insecure_channel(address, options=_CHANNEL)
    return grpc.aio.secure_channel(
        address, security.credentials, options=[*_CHANNEL, *security.options]
    )


def check_peer(credentials: Credentials, address: str) -> None:
    """Whether a channel may be opened to ``host:port``, and could lead to a peer.

    Raises:
        InvalidDocument: it is no address, or one that leads nowhere.
        AddressRefused: the credentials do not allow it.
    """
    host, _ = split_address(address)
    if is_unspecified(host):
        raise InvalidDocument(
            f"{address} is no address of a peer",
            why=f"{host} is every address of whoever connects to it",
            fix="Name one address of the device",
        )
    credentials.check(host, address, "connect to")


class PeerChannel:
    """The channel to one peer, for as long as somebody needs it; made again when the credentials were renewed.

    A channel keeps the certificate that it was made with. So ask for `current` before each call that begins a
    conversation; calls on the channel before go on until `close`.
    """

    def __init__(self, credentials: Credentials, address: str, expected: PeerIdentity) -> None:
        """Nothing is connected yet.

        Raises:
            AddressRefused: the credentials do not allow the address.
            InvalidDocument: it is no address.
        """
        self.address = address
        self.expected = expected
        self._credentials = credentials
        self._revision = credentials.revision()
        self._channels = [channel(credentials, address, expected)]

    def current(self) -> grpc.aio.Channel:
        """The channel for new calls."""
        revision = self._credentials.revision()
        if revision != self._revision:
            self._channels.append(channel(self._credentials, self.address, self.expected))
            self._revision = revision
        return self._channels[-1]

    async def close(self) -> None:
        """Close it; calls in progress end."""
        await asyncio.gather(*(one.close() for one in self._channels))
