"""The one module that opens ports and channels, and that carries errors across them.

Until devices are enrolled (mutual TLS), everything binds to loopback and connects to loopback; `insecure_lan`
lifts that for a network that is trusted as a whole.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
import msgspec

from tiermesh import limits
from tiermesh.errors import InvalidDocument, TiermeshError, Unreachable, error_of

FAILURE_KEY: Final = "tiermesh-failure-bin"
INSECURE_NOTICE: Final = (
    "--insecure-lan: everyone on this network can read and change what this process does"
)

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


def server() -> grpc.aio.Server:
    """A server without ports; add services, then `bind`, then start it."""
    return grpc.aio.server(options=_SERVER)


def bind(server: grpc.aio.Server, host: str, port: int, *, insecure_lan: bool = False) -> int:
    """Take a port (0 for a free one) and return it.

    Raises:
        TiermeshError: the address is not loopback and `insecure_lan` is not given, or the port is taken.
    """
    _check_host(host, insecure_lan, "listen on")
    try:
        return server.add_insecure_port(f"{_bracketed(host)}:{port}")
    except RuntimeError as error:
        raise TiermeshError(
            f"cannot listen on {host}:{port}",
            why=str(error).splitlines()[0],
            fix="Choose another port, or 0 for a free one",
        ) from None


def channel(address: str, *, insecure_lan: bool = False) -> grpc.aio.Channel:
    """A channel to ``host:port``; nothing is connected yet."""
    host, _ = split_address(address)
    _check_host(host, insecure_lan, "connect to")
    return grpc.aio.insecure_channel(address, options=_CHANNEL)


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port`` as its parts; InvalidDocument says how it should be written."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise InvalidDocument(
            f"{address!r} is not an address", fix="Write host:port, for example 127.0.0.1:7070"
        )
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """The parts of an address as ``host:port``, IPv6 in brackets."""
    return f"{_bracketed(host)}:{port}"


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago, for a setting that must stay equal across restarts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_unspecified(host: str) -> bool:
    """Whether a host means every address of a machine: it can be listened on, and nobody can connect to it."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == ""


def check_peer(address: str, *, insecure_lan: bool) -> None:
    """Whether a channel may be opened to ``host:port``.

    Raises:
        InvalidDocument: it is no address, or one that leads nowhere.
        TiermeshError: it is not loopback, and `insecure_lan` is not given.
    """
    host, _ = split_address(address)
    if is_unspecified(host):
        raise InvalidDocument(
            f"{address} is no address of a peer",
            why=f"{host} is every address of whoever connects to it",
            fix="Name one address of the device",
        )
    _check_host(host, insecure_lan, "connect to")


async def answer_errors(
    context: grpc.aio.ServicerContext[Any, Any], work: Callable[[], Awaitable[Any]]
) -> Any:
    """Run a handler's work; a TiermeshError goes to the caller whole, with its fields."""
    try:
        return await work()
    except TiermeshError as error:
        await abort(context, error)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: TiermeshError) -> NoReturn:
    """End a call with an error that `raised_by` turns back into the same one."""
    await context.abort(
        grpc.StatusCode.FAILED_PRECONDITION,
        str(error),
        trailing_metadata=((FAILURE_KEY, encode_error(error)),),
    )
    raise AssertionError("abort returned")


def encode_error(error: TiermeshError) -> bytes:
    """An error with its fields, as JSON."""
    return msgspec.json.encode(error.to_dict(), enc_hook=str)


def decode_error(data: bytes) -> TiermeshError:
    """The error that was encoded; what is no error of ours says so."""
    try:
        return error_of(msgspec.json.decode(data, type=dict[str, Any]))
    except msgspec.MsgspecError:
        return TiermeshError("the other end failed", why="it does not say how")


def raised_by(error: grpc.aio.AioRpcError, peer: str) -> TiermeshError:
    """The error behind a failed call: the peer's own where it sent one, else that it is unreachable."""
    for key, value in error.trailing_metadata() or ():
        if key == FAILURE_KEY and isinstance(value, bytes):
            return decode_error(value)
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return Unreachable(
            f"{peer} does not answer",
            why=(error.details() or "").split(";")[0][:200],
            fix="Check that the agent runs there and that the address is right",
            peer=peer,
        )
    return TiermeshError(
        f"the call to {peer} failed", why=f"{error.code().name}: {error.details()}", peer=peer
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _check_host(host: str, insecure_lan: bool, verb: str) -> None:
    if insecure_lan or is_loopback(host):
        return
    raise TiermeshError(
        f"refusing to {verb} {host}",
        why="connections are not encrypted yet, so only loopback is used",
        fix="Give --insecure-lan if everyone on this network may control it",
    )
