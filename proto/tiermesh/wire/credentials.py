"""Credentials: which addresses a process may use, how it proves who it is, and how it verifies a peer.

A value of one of the kinds below is made once, where the configuration or the command line is read, and passed to
whatever opens a port, a channel or a socket; only this package asks what kind it is. There are two kinds, both
without encryption: `Loopback` and `InsecureLan`.

A kind that encrypts is one more class here, and a member of `AnyCredentials`. What it needs has its place:

* *Keys are files.* The value names the folder and holds no secret, so it can be compared, logged, and handed to the
  worker process in its start message. `server_security` and `channel_security` read the files.
* *A certificate per process*, for both ends: `server_security` asks clients for theirs, `channel_security` presents
  one. It may look at the bound port's purpose by being another value: enrolment, which cannot ask for a client's
  certificate, has a server and credentials of its own.
* *The expected peer* is an argument of each connect. `channel_security` turns it into the name that the peer's
  certificate must be valid for (`PeerIdentity.server_name`).
* *Checks after the handshake*, such as the TLS version, revocation, or roles by method, are `interceptors`.
* *Rotation without a restart.* `server_security` may read new files at each handshake. A channel keeps what it was
  made with, so `revision` says that there is something newer, and a `PeerChannel` then makes another channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeAlias

import msgspec

from tiermesh.errors import TiermeshError
from tiermesh.wire.addresses import is_loopback

if TYPE_CHECKING:
    import ssl

    import grpc
    import grpc.aio

    from tiermesh.wire.peers import PeerIdentity


class AddressRefused(TiermeshError):
    """The credentials of this process do not allow an address; field `address`."""

    kind = "address-refused"


class ChannelSecurity(NamedTuple):
    """What a secure channel is made with: gRPC's credentials, and options such as the expected name."""

    credentials: grpc.ChannelCredentials
    options: Sequence[tuple[str, Any]] = ()


class Credentials(msgspec.Struct, frozen=True, tag_field="kind"):
    """Base of all kinds. The defaults are those of a kind without encryption."""

    reaches_network: ClassVar[bool] = False
    """Whether addresses other than loopback may be used: to listen, to connect, and to announce."""
    warning: ClassVar[str] = ""
    """What a person should know who starts a process with these credentials; empty: nothing."""
    options: ClassVar[tuple[str, ...]] = ()
    """The command-line options that give another process of this program the same credentials."""

    def check(self, host: str, address: str, action: str) -> None:
        """Refuse a host that may not be used.

        Args:
            host: The host of `address`.
            address: What the error names, such as ``192.0.2.7:7070``.
            action: What would be done with it: ``connect to`` or ``listen on``.

        Raises:
            AddressRefused: naming the address, the reason and the option that would allow it.
        """
        if self.reaches_network or is_loopback(host):
            return
        raise AddressRefused(
            f"refusing to {action} {address}",
            why="connections are not encrypted, so only loopback addresses are used",
            fix="Give --insecure-lan if everyone on this network may control it",
            address=address,
        )

    def server_security(self) -> grpc.ServerCredentials | None:
        """What a gRPC port is opened with; None: it is not encrypted."""
        return None

    def channel_security(self, expected: PeerIdentity) -> ChannelSecurity | None:
        """What a channel to the expected peer is opened with; None: it is not encrypted."""
        return None

    def socket_security(self) -> ssl.SSLContext | None:
        """What a listening socket outside gRPC is wrapped with, such as the browser's; None: it is not encrypted."""
        return None

    def interceptors(self) -> Sequence[grpc.aio.ServerInterceptor]:
        """What looks at each call of a server before its handler does."""
        return ()

    def revision(self) -> int:
        """Greater after a renewal of the files behind these credentials: channels from before should be replaced."""
        return 0


class Loopback(Credentials, frozen=True, tag="loopback"):
    """This machine only, unencrypted: the default, since whoever is on a network is not known."""


class InsecureLan(Credentials, frozen=True, tag="insecure-lan"):
    """Any address, unencrypted: for a network that is trusted as a whole. Given as ``--insecure-lan``."""

    reaches_network: ClassVar[bool] = True
    warning: ClassVar[str] = (
        "--insecure-lan: everyone on this network can read and change what this process does"
    )
    options: ClassVar[tuple[str, ...]] = ("--insecure-lan",)


AnyCredentials: TypeAlias = Loopback | InsecureLan
"""The kinds that a document or message may hold; its `kind` says which."""

LOOPBACK: Final = Loopback()
INSECURE_LAN: Final = InsecureLan()
