"""The states of a device and the phases of a rollout, each an enum with the table of its moves."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class DeviceState(StrEnum):
    """Where a device stands. Only READY devices are planned for."""

    DISCOVERED = "discovered"
    """Seen or named, and not described yet."""
    ENROLLED = "enrolled"
    """Trusted. Until enrolment exists, whoever describes itself is, and is READY at once."""
    READY = "ready"
    """Described, and it answered when last asked."""
    SUSPECT = "suspect"
    """It is not heard for a moment, or answers again after a failure and has yet to prove that it stays."""
    FAILED = "failed"
    """It is not heard for so long, or so often, that work must go elsewhere."""
    DRAINING = "draining"
    """An operator wants no new work there."""
    LEFT = "left"
    """An operator took it out; it comes back when it is discovered again."""


_UNANSWERED: Final = {
    DeviceState.READY: DeviceState.SUSPECT,
    DeviceState.ENROLLED: DeviceState.SUSPECT,
    DeviceState.SUSPECT: DeviceState.FAILED,
}


def unanswered(state: DeviceState) -> DeviceState:
    """What a device becomes when it does not answer."""
    return _UNANSWERED.get(state, state)


MOVED_BY_LIVENESS: Final = frozenset({DeviceState.READY, DeviceState.SUSPECT, DeviceState.FAILED})
"""The states between which heartbeats move a device; the others are an operator's word."""


def answered(state: DeviceState | None) -> DeviceState:
    """What a device becomes when it describes itself; None for one that was not known."""
    return DeviceState.DRAINING if state is DeviceState.DRAINING else DeviceState.READY


class Phase(StrEnum):
    """How far one device is in one rollout."""

    PENDING = "pending"
    PUSHED = "pushed"
    """It has every artifact."""
    PREPARED = "prepared"
    """Its replicas are loaded, warm and tested, beside what runs."""
    COMMITTED = "committed"
    """It serves the new generation."""
    FAILED = "failed"
    ABORTED = "aborted"
    """It was told to forget the new generation, or could not be told."""
    LEAVING = "leaving"
    """The new plan does not use it; it serves on until the others have committed."""
    STOPPED = "stopped"


_MOVES: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.PENDING: frozenset({Phase.PUSHED, Phase.FAILED, Phase.ABORTED}),
    Phase.PUSHED: frozenset({Phase.PREPARED, Phase.FAILED, Phase.ABORTED}),
    Phase.PREPARED: frozenset({Phase.COMMITTED, Phase.FAILED, Phase.ABORTED}),
    Phase.FAILED: frozenset({Phase.ABORTED}),
    Phase.LEAVING: frozenset({Phase.STOPPED}),
    Phase.COMMITTED: frozenset(),
    Phase.ABORTED: frozenset(),
    Phase.STOPPED: frozenset(),
}


def may_move(phase: Phase, to: Phase) -> bool:
    """Whether a device in `phase` may go to `to`; a report that comes too late is not a move."""
    return to in _MOVES[phase]


class RolloutOutcome(StrEnum):
    """How a rollout ended."""

    COMMITTED = "committed"
    """Every device serves the new generation."""
    ABORTED = "aborted"
    """It failed before any device had switched; what ran before runs on."""
    BROKEN = "broken"
    """It failed while devices were switching; a restore must follow."""
    RESTORED = "restored"
    """The plan that ran before runs again, under a new generation."""


EXIT_CODES: Final[dict[RolloutOutcome, int]] = {
    RolloutOutcome.COMMITTED: 0,
    RolloutOutcome.ABORTED: 4,
    RolloutOutcome.BROKEN: 1,
    RolloutOutcome.RESTORED: 4,
}


class ReplanOutcome(StrEnum):
    """How a replan ended."""

    REPLACED = "replaced"
    """The new plan serves, and meets every ask."""
    DEGRADED = "degraded"
    """The new plan serves at a lower rate than is asked: no plan on these devices meets it."""
    KEPT = "kept"
    """What runs is as good, or the gain is not worth the churn."""
    INFEASIBLE = "infeasible"
    """These devices cannot serve the workflow at any rate; what runs does what it can."""
    FAILED = "failed"
    """The new plan could not be rolled out, or none could be computed; it is tried again."""
    ADVISED = "advised"
    """Replanning by itself is switched off: somebody should."""


class Reach(StrEnum):
    """Why an address did not lead to a device."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    NO_ROUTE = "no-route"
    UNRESOLVED = "unresolved"
    NOT_AN_AGENT = "not-an-agent"
    OTHER_VERSION = "other-version"
    NOT_LOOPBACK = "not-loopback"
    BAD_DESCRIPTION = "bad-description"
    OTHER_DEVICE = "other-device"
    """An agent answers, and it is not the one that announced this address."""
    OTHER = "other"


REMEDIES: Final[dict[Reach, str]] = {
    Reach.REFUSED: "Nothing listens there: start the agent, or correct the port",
    Reach.TIMEOUT: "It does not answer: is it stopped, or behind a firewall?",
    Reach.NO_ROUTE: "No route to host: check the network and the address",
    Reach.UNRESOLVED: "The name is unknown here: write the address, or correct the name",
    Reach.NOT_AN_AGENT: "Something else listens there: correct the port",
    Reach.OTHER_VERSION: "Upgrade the older of agent and coordinator to the same version",
    Reach.NOT_LOOPBACK: "Give --insecure-lan if everyone on this network may control it",
    Reach.BAD_DESCRIPTION: "Its description cannot be used: look at the agent's log and version",
    Reach.OTHER_DEVICE: "The address is not only this device's: start its agent with --host, and one that is",
    Reach.OTHER: "Look at the agent's log",
}
