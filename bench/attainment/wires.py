"""Links between machines: streams of frames with delays, shared capacity, and receivers that fall silent.

The product's sender and receiver are at the ends of each stream; what lies between them is simulated. Frames are not
encoded: they are handed over as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.serving.streams.receiver import Fenced
from coordinator.planning.network import Network, NetworkLink
from tiermesh.documents.problem import Problem
from tiermesh.frames import Frame

if TYPE_CHECKING:
    from bench.attainment.machine import Machine
    from bench.attainment.timeline import Timeline

BEAT_S: Final = 0.25
"""Receivers repeat their acknowledgement so often."""
AGAIN_S: Final = 0.2
LEAST_S: Final = 0.0005
ENVELOPE_BYTES: Final = 200


@dataclass
class Call:
    """A stream from one machine to another, while both are up."""

    sender: Machine
    receiver: Machine
    session: int = 0
    alive: bool = True
    welcomed: bool = False
    told_at: float = 0.0


class Wires:
    """All links. `speed` is the share of a link's capacity that is there now."""

    def __init__(self, timeline: Timeline, problem: Problem) -> None:
        self.speed = 1.0
        self._timeline = timeline
        self._network = Network(problem)
        self._tier = {d.name: d.tier for d in problem.devices}
        self._links: dict[tuple[str, str], NetworkLink] = {}
        self._free_at: dict[tuple[str, str], float] = {}
        self.calls: dict[tuple[str, str], Call] = {}
        timeline.every(BEAT_S, self._beat)

    def _link(self, call: Call) -> NetworkLink:
        pair = call.sender.name, call.receiver.name
        found = self._links.get(pair)
        if found is None:
            found = self._links[pair] = self._network.between(*pair)
        return found

    def _delay_s(self, call: Call, size_bytes: int) -> float:
        """How long a message takes: it waits for what is before it on a shared link."""
        link, now = self._link(call), self._timeline.now
        half_s = max(link.rtt_ms / 2e3, LEAST_S)
        if link.capacity_mbps is None or not size_bytes:
            return half_s
        shared = self._tier[call.sender.name], self._tier[call.receiver.name]
        seconds = size_bytes * 8e-6 / (link.capacity_mbps * self.speed)
        begins = max(self._free_at.get(shared, 0.0), now)
        self._free_at[shared] = begins + seconds
        return begins + seconds - now + half_s

    def converse(self, sender: Machine, receiver: Machine) -> None:
        """Something waits to be sent."""
        call = self.calls.get((sender.name, receiver.name))
        if call is None or not call.alive:
            call = self.calls[sender.name, receiver.name] = Call(sender, receiver)
            self._later(call, self._delay_s(call, 0), lambda: self._greet(call))
        elif call.welcomed:
            self._transmit(call)

    def _later(self, call: Call, seconds: float, event: Callable[[], None]) -> None:
        def run() -> None:
            if call.alive and call.sender.flow is not None:
                event()

        self._timeline.after(seconds, run)

    def _greet(self, call: Call) -> None:
        flow, other = call.sender.flow, call.receiver.flow
        if flow is None or other is None or not other.generations:
            self._later(call, AGAIN_S, lambda: self._greet(call))
            return
        oldest = flow.links.sender(call.receiver.name, self._timeline.now).oldest
        call.session = other.links.receiver(call.sender.name).open(flow.epoch, oldest)
        call.welcomed = True
        flow.connected(call.receiver.name, other.epoch, self._timeline.now)
        self._tell(call)
        self._transmit(call)

    def _transmit(self, call: Call) -> None:
        flow = call.sender.flow
        if flow is None:
            return
        sender = flow.links.sender(call.receiver.name, self._timeline.now)
        while (message := sender.next_message()) is not None:
            first, frames = message
            size = sum(frame.size for frame in frames) + ENVELOPE_BYTES
            self._later(
                call, self._delay_s(call, size), lambda f=first, m=frames: self._arrive(call, f, m)
            )

    def _arrive(self, call: Call, first: int, frames: list[Frame]) -> None:
        flow = call.receiver.flow
        if flow is None:
            return
        try:
            flow.receive(call.sender.name, call.session, first, frames, self._timeline.now)
        except Fenced:
            self.end(call)
            return
        call.receiver.pump()
        self.acknowledge(call)

    def acknowledge(self, call: Call) -> None:
        """Tell the sender what has come, and what may be sent."""
        if call.alive and call.welcomed and call.receiver.flow is not None:
            call.told_at = self._timeline.now
            self._later(call, self._delay_s(call, 0), lambda: self._tell(call))

    def _tell(self, call: Call) -> None:
        flow, other = call.sender.flow, call.receiver.flow
        if flow is None or other is None:
            return
        upto, full, windows = other.links.acknowledgement(call.sender.name)
        flow.acknowledged(call.receiver.name, upto, full, windows, self._timeline.now)
        call.sender.follow()

    def _beat(self) -> None:
        now = self._timeline.now
        for call in list(self.calls.values()):
            if now - call.told_at >= BEAT_S:
                self.acknowledge(call)

    def end(self, call: Call) -> None:
        """A call has ended; it is begun again."""
        if not call.alive:
            return
        call.alive = False
        if call.sender.flow is not None:
            call.sender.flow.disconnected(call.receiver.name)
            self._timeline.after(AGAIN_S, lambda: self._redial(call))

    def _redial(self, call: Call) -> None:
        if call.sender.flow is not None:
            self.converse(call.sender, call.receiver)

    def fail(self, machine: Machine) -> None:
        """A machine is off: nothing comes from it, and nothing arrives."""
        for call in list(self.calls.values()):
            if machine in (call.sender, call.receiver):
                self.end(call)
