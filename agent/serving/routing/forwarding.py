"""Frames on their way between stages: to a replica on this device, to another device, or back to the sources. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Final

from agent.serving.instructions import Acknowledge, Hangup, Instruction, Notice, Wake
from agent.serving.routing.generation import Generation
from agent.serving.routing.links import Links
from agent.serving.streams.receiver import Receiver
from agent.serving.streams.window import UNBOUNDED
from tiermesh.frames import Frame, Kind, pack

_NOTICE_EVERY_S: Final = 5.0
_STALL_S: Final = 0.5
_BETWEEN_STAGES: Final = (Kind.DATA, Kind.ERROR, Kind.FILTERED)


@dataclass(slots=True)
class Generations:
    """The generations of a workflow that are loaded here; new requests take the `current` one."""

    current: int = 0
    loaded: dict[int, Generation] = field(default_factory=dict[int, Generation])

    @property
    def running(self) -> Generation | None:
        """The generation that new requests take."""
        return self.loaded.get(self.current)

    def source_devices(self) -> set[str]:
        """The devices whose sources may hold requests."""
        return {d for generation in self.loaded.values() for d in generation.source_devices()}

    def addresses(self) -> dict[str, str]:
        """Where the devices of all generations take frames; the newest generation knows best."""
        peers = [self.loaded[number].assignment.peers for number in sorted(self.loaded)]
        return {device: peer.address for known in peers for device, peer in known.items()}

    def name(self, device: str) -> str:
        """What people call a device."""
        for generation in self.loaded.values():
            if device in generation.assignment.peers:
                return generation.assignment.peers[device].name
        return device


class Post:
    """What leaves a stage is handed in here; what is for this device is taken out with `next_here`."""

    def __init__(self, device: str, generations: Generations) -> None:
        self.device = device
        self.links = Links()
        self._generations = generations
        # Frames for this device wait their turn instead of being handled by recursion: chains are deep.
        self._here: deque[Frame] = deque()
        self._out: list[Instruction] = []
        self._wake: set[str] = set()
        self._acknowledge: set[str] = set()
        self._noticed: dict[str, float] = {}
        self._known: dict[str, str] = {}
        self._ticked = inf

    def take_instructions(self) -> list[Instruction]:
        """What is to be done since the last call."""
        out: list[Instruction] = [*self._out, *map(Wake, sorted(self._wake))]
        out += map(Acknowledge, sorted(self._acknowledge))
        self._out, self._wake, self._acknowledge = [], set(), set()
        return out

    def do(self, *instructions: Instruction) -> None:
        """Add instructions."""
        self._out += instructions

    def notice(self, kind: str, text: str, now: float) -> None:
        """Tell people; one of a kind every five seconds, since failures come in crowds."""
        if now - self._noticed.get(kind, -inf) >= _NOTICE_EVERY_S:
            self._noticed[kind] = now
            self._out.append(Notice(kind, text))

    def next_here(self) -> Frame | None:
        """The next frame for this device."""
        return self._here.popleft() if self._here else None

    # Sending

    def send(self, frame: Frame, now: float) -> None:
        """On to the frame's stage: the lane's replica, or its backup, or else back to the sources."""
        generation = self._generations.loaded.get(frame.generation)
        if generation is None:
            self.give_back(frame, "", f"generation {frame.generation} is over", now)
            return
        hop = generation.router.hop(frame.lane, frame.stage, self.links.is_lost)
        if hop is None:
            device = generation.router.device_of(frame.lane, frame.stage)
            why = f"{frame.stage} on {self._generations.name(device)} cannot be reached"
            self.give_back(frame, device, why, now)
        elif hop.device == self.device:
            self._here.append(frame)
        else:
            self._offer(hop.device, frame, now)

    def send_to(self, device: str, frame: Frame, now: float) -> None:
        """Straight to a device; it waits, within bounds, for one that cannot be reached now."""
        if device == self.device:
            self._here.append(frame)
        elif device in self.links.addresses and self.links.has_room(device, UNBOUNDED):
            self._offer(device, frame, now)

    def give_back(self, frame: Frame, device: str, why: str, now: float) -> None:
        """Tell the sources of a request that this attempt ended here, because of `device` if it is named."""
        lost = Frame(
            Kind.LOST,
            frame.generation,
            frame.lane,
            frame.request_id,
            frame.attempt,
            device,
            frame.stage,
            error=why,
        )
        for source in frame.sources:
            self.send_to(source, lost, now)

    def _offer(self, device: str, frame: Frame, now: float) -> None:
        self.links.sender(device, now).offer(frame)
        self._wake.add(device)

    # Devices that come and go

    def learn_addresses(self) -> None:
        """Generations have come or gone, and devices with them."""
        addresses = {**self._known, **self._generations.addresses()}
        addresses.pop(self.device, None)
        self.links.addresses = addresses

    def learn(self, device: str, address: str) -> None:
        """A device that no generation here may name takes frames there."""
        if address and self._known.get(device) != address:
            self._known[device] = address
            self.learn_addresses()

    def connected(self, device: str, epoch: int, now: float) -> None:
        """A device has answered. If its worker has been started again, what it had in its care is lost."""
        sender = self.links.sender(device, now)
        former = sender.receiver_epoch
        if sender.connected(epoch, now):
            self._announce(device, former, now, gone=False)
        self._wake.add(device)

    def reopen(self, device: str, receiver: Receiver, frame: Frame) -> None:
        """A frame that came from a device has been worked on."""
        if receiver.release(frame):
            self._acknowledge.add(device)

    def wake(self, device: str) -> None:
        """More may be sent to a device."""
        self._wake.add(device)

    def tick(self, now: float) -> None:
        """Look for devices that have fallen silent."""
        if now - self._ticked > _STALL_S:
            # This device has not listened: what looks like silence of others is its own.
            self.links.excuse(now - self._ticked)
        self._ticked = now
        for device in self.links.lost_now(now):
            self._lose(device, now)

    def _lose(self, device: str, now: float) -> None:
        """Send elsewhere what a lost device was to get, and tell the sources."""
        sender = self.links.senders[device]
        withdrawn = sender.withdraw()
        self._out.append(Hangup(device))
        name = self._generations.name(device)
        self.notice("peer-lost", f"{name} does not answer; lanes through it use their backup", now)
        self._announce(device, sender.receiver_epoch, now, gone=True)
        for frame in withdrawn:
            if frame.kind not in _BETWEEN_STAGES:
                self.send_to(device, frame, now)
            else:
                self.send(frame, now)

    def _announce(self, device: str, epoch: int, now: float, *, gone: bool) -> None:
        lost = Frame(
            Kind.LOST,
            self._generations.current,
            0,
            "",
            0,
            device,
            "",
            payload=pack({"epoch": epoch, "gone": gone}),
        )
        for source in sorted(self._generations.source_devices() - {device}):
            self.send_to(source, lost, now)

    def expired(self, now: float) -> Iterator[tuple[str, Frame]]:
        """Take out the frames whose deadline has passed while they waited to be sent, with their device's name."""
        for device, sender in self.links.senders.items():
            for frame in sender.expired(now):
                yield self._generations.name(device), frame
