"""The two ends of a stream, together: any interleaving of sending, losing, reconnecting and starting again."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from agent.serving.streams.receiver import Fenced, Receiver
from agent.serving.streams.sender import SILENCE_S, PeerLink, Sender
from agent.serving.streams.strikes import WINDOW_S, Strikes
from agent.serving.streams.window import FULL, FlowWindow
from tiermesh import limits
from tiermesh.errors import TiermeshError
from tiermesh.frames import Frame, Kind, pack

SMALL = FlowWindow(4, 10_000)


def frame(number: int, stage: str = "s", kind: Kind = Kind.DATA, deadline: float = 1e9) -> Frame:
    payload = pack({"n": number})
    return Frame(kind, 1, 0, f"{number:032x}", 1, "o", stage, (), 0.0, deadline, payload)


def number_of(received: Frame) -> int:
    return int(received.request_id, 16)


class Stream(RuleBasedStateMachine):
    """A sender and a receiver; what is in the call between them may be lost with it at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.sender = Sender(0.0)
        self.receiver = Receiver(SMALL)
        self.sender_epoch = self.receiver_epoch = 1
        self.session = 0
        self.forth: deque[tuple[int, list[Frame]]] = deque()
        self.back: deque[tuple[int, dict[str, FlowWindow]]] = deque()
        self.offered = 0
        self.taken: list[Frame] = []
        self.in_care: list[Frame] = []
        self.restarted_at = 0
        self.withdrawn: set[int] = set()
        self.lost_sender: set[int] = set()

    @rule(stage=st.sampled_from(["s", "t"]), end=st.booleans())
    def offer(self, stage: str, end: bool) -> None:
        self.offered += 1
        kind = Kind.CONFIRM if end else Kind.DATA
        self.sender.offer(frame(self.offered, stage, kind))

    @rule()
    def connect(self) -> None:
        self.forth.clear()
        self.back.clear()
        self.sender.disconnected()
        self.session = self.receiver.open(self.sender_epoch, self.sender.oldest)
        self.sender.connected(self.receiver_epoch, 0.0)
        self._acknowledge()
        self._take_acks(1)

    @precondition(lambda self: self.sender.link is PeerLink.UP)
    @rule()
    def send(self) -> None:
        message = self.sender.next_message()
        if message is not None:
            self.forth.append(message)

    @precondition(lambda self: self.forth)
    @rule()
    def deliver(self) -> None:
        first, frames = self.forth.popleft()
        for one in self.receiver.take(self.session, first, frames):
            self.taken.append(one)
            self.in_care.append(one)
        self._acknowledge()

    @precondition(lambda self: self.back)
    @rule(count=st.integers(1, 3))
    def hear(self, count: int) -> None:
        self._take_acks(count)

    def _take_acks(self, count: int) -> None:
        for _ in range(min(count, len(self.back))):
            upto, windows = self.back.popleft()
            self.sender.acknowledged(upto, self.receiver.full, windows, 0.0)

    @precondition(lambda self: self.in_care)
    @rule()
    def work(self) -> None:
        self.receiver.release(self.in_care.pop(0))
        self._acknowledge()

    @rule()
    def start_receiver_again(self) -> None:
        self.in_care.clear()
        self.restarted_at = len(self.taken)
        self.receiver = Receiver(SMALL)
        self.receiver_epoch += 1
        self.connect()

    @rule()
    def start_sender_again(self) -> None:
        kept = {number_of(one) for one in self.sender.withdraw()}
        self.lost_sender |= kept
        self.sender = Sender(0.0)
        self.sender_epoch += 1
        self.connect()

    @rule()
    def give_up(self) -> None:
        self.withdrawn |= {number_of(one) for one in self.sender.withdraw()}
        self.sender.link = PeerLink.LOST
        self.forth.clear()
        self.back.clear()

    def _acknowledge(self) -> None:
        self.back.append((self.receiver.next, self.receiver.windows()))

    @invariant()
    def care_is_bounded(self) -> None:
        for stage in ("s", "t"):
            held = [f for f in self.in_care if f.kind is Kind.DATA and f.stage == stage]
            assert len(held) <= SMALL.frames

    @invariant()
    def nothing_is_taken_twice_by_one_receiver(self) -> None:
        numbers = [number_of(one) for one in self.taken[self.restarted_at :]]
        assert len(numbers) == len(set(numbers))

    @invariant()
    def frames_of_a_channel_stay_in_order(self) -> None:
        for stage in ("s", "t"):
            numbers = [
                number_of(one)
                for one in self.taken[self.restarted_at :]
                if one.stage == stage and one.kind is Kind.DATA
            ]
            assert numbers == sorted(numbers)

    def teardown(self) -> None:
        """Whatever has happened: once the stream works, all that the sender still has arrives, in order."""
        self.connect()
        for _ in range(10 * self.offered + 10):
            self.send()
            while self.forth:
                self.deliver()
            while self.in_care:
                self.work()
            self._take_acks(len(self.back))
        assert self.sender.unacknowledged == self.sender.waiting == 0
        arrived = {number_of(one) for one in self.taken}
        everything = set(range(1, self.offered + 1))
        assert everything - arrived <= self.withdrawn | self.lost_sender


Stream.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestStream = Stream.TestCase


def up(
    sender: Sender, full: FlowWindow = FULL, windows: dict[str, FlowWindow] | None = None
) -> Sender:
    sender.connected(1, 0.0)
    sender.acknowledged(sender.oldest, full, windows or {}, 0.0)
    return sender


def test_a_closed_window_does_not_hold_up_other_stages_or_ends() -> None:
    sender = up(Sender(0.0), windows={"slow": FlowWindow(0, 0)})
    for number, (stage, kind) in enumerate(
        [("slow", Kind.DATA), ("fast", Kind.DATA), ("slow", Kind.CONFIRM)], 1
    ):
        sender.offer(frame(number, stage, kind))
    message = sender.next_message()
    assert message is not None
    assert sorted(number_of(one) for one in message[1]) == [2, 3]
    assert sender.next_message() is None
    assert sender.waiting == 1


def test_bytes_close_a_window_too() -> None:
    size = frame(1).size
    sender = up(Sender(0.0), full=FlowWindow(100, 2 * size))
    for number in (1, 2, 3):
        sender.offer(frame(number))
    message = sender.next_message()
    assert message is not None
    assert len(message[1]) == 2


IMAGE = replace(frame(1), payload=pack({"image": bytes(2**15)}))


def carried(
    sender: Sender, rate: float, messages: int, now: float = 0.0
) -> tuple[list[int], float]:
    """Bytes of so many messages, each acknowledged while the next is under way, at `rate` bytes a second; and when."""
    sizes: list[int] = []
    for _ in range(messages + 1):
        for _ in range(limits.MESSAGE_MOST_BYTES // IMAGE.size + 1):
            sender.offer(IMAGE)
        upto = sender.oldest + sender.unacknowledged
        message = sender.next_message()
        assert message is not None
        now += (sizes[-1] if sizes else 0) / rate
        sender.acknowledged(upto, FULL, {}, now)
        sizes.append(sum(one.size for one in message[1]))
    return sizes[1:], now


@pytest.mark.parametrize(
    ("rate", "most"),
    [
        (1e6, limits.MESSAGE_TARGET_BYTES),
        (1e8, 500_000),
        (2e9, limits.MESSAGE_MOST_BYTES),
    ],
)
def test_a_message_holds_what_the_link_carries_in_a_few_milliseconds(
    rate: float, most: int
) -> None:
    sizes, _ = carried(up(Sender(0.0)), rate, 300)
    assert sizes[0] == pytest.approx(limits.MESSAGE_TARGET_BYTES, abs=IMAGE.size)
    assert sizes[-1] == pytest.approx(most, abs=IMAGE.size)
    assert max(sizes) <= most + IMAGE.size


def test_idle_times_do_not_count_for_what_a_link_carries() -> None:
    sender = up(Sender(0.0))
    sizes, now = carried(sender, 2e9, 300)
    while sender.next_message() is not None:
        sender.acknowledged(sender.oldest + sender.unacknowledged, FULL, {}, now)
    later, _ = carried(sender, 2e9, 1, now + 3_600.0)
    assert later == pytest.approx(sizes[-1:], abs=IMAGE.size)


def test_a_link_that_has_become_slow_gets_small_messages_again() -> None:
    sender = up(Sender(0.0))
    _, now = carried(sender, 2e9, 300)
    sizes, _ = carried(sender, 1e6, 3, now)
    assert sizes[-1] <= limits.MESSAGE_TARGET_BYTES + IMAGE.size


def test_a_receiver_that_was_started_again_is_noticed() -> None:
    sender = up(Sender(0.0))
    assert sender.connected(1, 0.0) is False
    assert sender.connected(2, 0.0) is True


def test_a_peer_is_lost_after_a_second_of_silence_once() -> None:
    sender = up(Sender(0.0))
    assert not sender.check_lost(SILENCE_S)
    assert sender.check_lost(SILENCE_S + 0.01)
    assert not sender.check_lost(SILENCE_S + 5)
    assert sender.link is PeerLink.LOST
    sender.connected(1, 9.0)
    assert sender.link is PeerLink.UP


def test_frames_past_their_deadline_do_not_wait_for_a_window() -> None:
    sender = Sender(0.0)
    sender.offer(frame(1, deadline=5.0))
    sender.offer(frame(2, kind=Kind.CONFIRM, deadline=0.0))
    assert sender.expired(4.0) == []
    assert [number_of(one) for one in sender.expired(6.0)] == [1]
    assert sender.waiting == 1


def test_an_older_sender_and_an_older_call_are_fenced_off() -> None:
    receiver = Receiver()
    first = receiver.open(2, 1)
    with pytest.raises(Fenced):
        receiver.open(1, 1)
    receiver.open(2, 1)
    with pytest.raises(Fenced):
        receiver.take(first, 1, [frame(1)])


def test_a_gap_and_a_broken_window_are_refused() -> None:
    receiver = Receiver(FlowWindow(1, 10_000))
    session = receiver.open(1, 1)
    with pytest.raises(TiermeshError, match="frame 1 is due"):
        receiver.take(session, 2, [frame(2)])
    receiver.take(session, 1, [frame(1)])
    with pytest.raises(TiermeshError, match="window of s is closed"):
        receiver.take(session, 2, [frame(2)])
    assert receiver.next == 2, "nothing of a refused message is taken"
    assert receiver.take(session, 2, [frame(2, kind=Kind.CONFIRM)])


def test_an_acknowledgement_of_what_was_not_sent_is_refused() -> None:
    with pytest.raises(TiermeshError):
        up(Sender(0.0)).acknowledged(7, FULL, {}, 0.0)


def test_a_frame_that_cannot_be_read_ends_in_an_error_and_those_beside_it_arrive() -> None:
    sender, receiver = up(Sender(0.0)), Receiver()
    for number in (1, 2, 3):
        sender.offer(frame(number))
    arrived: list[Frame] = []
    for _ in range(10):
        session = receiver.open(1, sender.oldest)
        sender.connected(1, 0.0)
        sender.acknowledged(receiver.next, FULL, {}, 0.0)
        while (message := sender.next_message()) is not None:
            first, frames = message
            if any(f.kind is Kind.DATA and number_of(f) == 2 for f in frames):
                sender.refused(first, "it is odd")
                break
            arrived += receiver.take(session, first, frames)
    sender.acknowledged(receiver.next, FULL, receiver.windows(), 0.0)
    assert [number_of(f) for f in arrived] == [1, 2, 3]
    assert [f.kind for f in arrived] == [Kind.DATA, Kind.ERROR, Kind.DATA]
    assert arrived[1].error == "s: the frame cannot be read there: it is odd"
    assert sender.unacknowledged == 0
    assert sender.next_message() is None


def test_an_end_that_cannot_be_read_is_replaced_by_one_that_says_nothing() -> None:
    sender = up(Sender(0.0))
    sender.offer(frame(1, kind=Kind.CONFIRM))
    for _ in range(2):
        sender.connected(1, 0.0)
        assert sender.next_message() is not None
        sender.refused(1, "")
    sender.connected(1, 0.0)
    message = sender.next_message()
    assert message is not None
    assert (message[1][0].kind, message[1][0].request_id) == (Kind.LOST, "")
    assert sender.refused(99, "") is None


def test_a_device_is_refused_while_it_sends_too_much_that_cannot_be_read() -> None:
    strikes = Strikes()
    for second in range(limits.MALFORMED_MESSAGES):
        assert not strikes.is_out("a", second)
        strikes.add("a", second)
    assert strikes.is_out("a", 10.0)
    assert not strikes.is_out("b", 10.0)
    assert not strikes.is_out("a", WINDOW_S + 1.0)
    assert strikes.total == limits.MALFORMED_MESSAGES
