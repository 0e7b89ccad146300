"""Who is expected at the other end of a connection."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """What a process is in the mesh; a certificate will say it."""

    AGENT = "agent"
    COORDINATOR = "coordinator"


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """A role, and of an agent its device id; without `device`, any peer of that role is meant.

    Every connect names the identity that it expects. Credentials that can verify it do so in the handshake. Those
    that cannot leave it to the first message, which carries the device id (`DescribeReply`, `Open`, `Hello`).
    """

    role: Role
    device: str = ""

    @property
    def server_name(self) -> str:
        """The name that a certificate of this peer is valid for, such as ``0a1b2c.agent.tiermesh``.

        Addresses change and are reached through port forwards, so certificates name identities instead. One of a
        device is valid for ``agent.tiermesh``, too, which is what a peer of unknown id is asked for.
        """
        return ".".join(part for part in (self.device, self.role, "tiermesh") if part)


ANY_AGENT: Final = PeerIdentity(Role.AGENT)
"""An agent whose device id is not known yet: it is being discovered, or was named by address."""


def agent(device: str) -> PeerIdentity:
    """The agent, and the worker, of a device."""
    return PeerIdentity(Role.AGENT, device)
