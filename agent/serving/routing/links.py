"""The streams of one workflow to and from the other devices, by device id. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from agent.serving.streams.receiver import Receiver
from agent.serving.streams.sender import PeerLink, Sender
from agent.serving.streams.window import FlowWindow


class Links:
    """Senders are made when there is something to send; a device without an address is not reached at all."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.senders: dict[str, Sender] = {}
        self.receivers: dict[str, Receiver] = {}

    def sender(self, device: str, now: float) -> Sender:
        """The stream to a device."""
        found = self.senders.get(device)
        if found is None:
            found = self.senders[device] = Sender(now)
        return found

    def receiver(self, device: str) -> Receiver:
        """The stream from a device."""
        return self.receivers.setdefault(device, Receiver())

    def is_lost(self, device: str) -> bool:
        """Whether a device is known to be out of reach."""
        sender = self.senders.get(device)
        return sender is not None and sender.link is PeerLink.LOST

    def has_room(self, device: str, stage: str) -> bool:
        """Whether more frames for a stage of a device should be made."""
        sender = self.senders.get(device)
        return sender is None or sender.has_room(stage)

    def lost_now(self, now: float) -> list[str]:
        """The devices that turn out to be lost now."""
        return [device for device, sender in self.senders.items() if sender.check_lost(now)]

    def excuse(self, seconds: float) -> None:
        """This device was silent for so long: that of the others does not count."""
        for sender in self.senders.values():
            sender.excuse(seconds)

    def acknowledgement(self, device: str) -> tuple[int, FlowWindow, Mapping[str, FlowWindow]]:
        """What to tell a sender: the number wanted next, the full window, and the windows that are not full."""
        receiver = self.receivers[device]
        return receiver.next, receiver.full, receiver.windows()
