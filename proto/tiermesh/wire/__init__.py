"""Everything that opens a port, a channel or a socket, and what carries errors across calls.

No other module does: each connection is made here, from the `Credentials` of this process and the identity that is
expected of its peer. ``tests/repo/test_ports.py`` holds that.
"""

from tiermesh.wire.addresses import (
    first_address,
    is_loopback,
    is_unspecified,
    join_address,
    split_address,
)
from tiermesh.wire.credentials import (
    INSECURE_LAN,
    LOOPBACK,
    AddressRefused,
    AnyCredentials,
    Credentials,
)
from tiermesh.wire.failures import (
    abort,
    answer_errors,
    decode_error,
    encode_error,
    raised_by,
)
from tiermesh.wire.mdns import Places, announced, multicast
from tiermesh.wire.peers import ANY_AGENT, PeerIdentity, Role, agent
from tiermesh.wire.rpc import PeerChannel, bind, channel, check_peer, server
from tiermesh.wire.sockets import (
    HeldPort,
    free_port,
    inherited,
    is_refused,
    listening_socket,
    process_pair,
    streams,
)

__all__ = [
    "ANY_AGENT",
    "INSECURE_LAN",
    "LOOPBACK",
    "AddressRefused",
    "AnyCredentials",
    "Credentials",
    "HeldPort",
    "PeerChannel",
    "PeerIdentity",
    "Places",
    "Role",
    "abort",
    "agent",
    "announced",
    "answer_errors",
    "bind",
    "channel",
    "check_peer",
    "decode_error",
    "encode_error",
    "first_address",
    "free_port",
    "inherited",
    "is_loopback",
    "is_refused",
    "is_unspecified",
    "join_address",
    "listening_socket",
    "multicast",
    "process_pair",
    "raised_by",
    "server",
    "split_address",
    "streams",
]
