"""The control session: each message once and in order, or the session says that it was reset; nothing unbounded."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from tiermesh import limits
from tiermesh.errors import LimitExceeded, TakenOver, TiermeshError
from tiermesh.session import SILENCE_S, ControlSession, Tenure

WAYS = st.sampled_from(["down", "up"])


@dataclass
class End:
    """A process: its session, what its application has sent, taken and handled in it, and been told is in doubt."""

    session: ControlSession[int] = field(default_factory=lambda: ControlSession(0.0))
    link: int = 0
    in_care: deque[tuple[int, int]] = field(default_factory=deque)
    handled: dict[int, list[int]] = field(default_factory=dict)

    def receive(self, number: int, payload: int, wanted: int) -> list[int]:
        delivered = self.session.acknowledged(self.link, wanted)
        if number and self.session.is_new(self.link, number):
            self.in_care.append((self.session.epoch, payload))
        return delivered

    def handle(self) -> None:
        epoch, payload = self.in_care.popleft()
        self.handled.setdefault(epoch, []).append(payload)
        self.session.handled(epoch)


class TwoEnds(RuleBasedStateMachine):
    """A coordinator and an agent, the bytes between them, and whatever can happen to all three."""

    @initialize()
    def begin(self) -> None:
        self.coordinator, self.agent = End(), End()
        self.process = "coordinator-1"
        self.starts = 1
        self.tenure = Tenure()
        self.payload = 0
        # What each end offered in an epoch, what the other end handled, and what was handed back.
        self.offered: dict[tuple[str, int], list[int]] = {}
        self.done: dict[tuple[str, int], list[int]] = {}
        self.in_doubt: dict[str, set[int]] = {"down": set(), "up": set()}
        self.delivered: set[int] = set()
        self.forgotten: set[int] = set()
        self.wires: dict[str, deque[tuple[int, int, int]]] = {"down": deque(), "up": deque()}
        self.is_up = False
        self.meet(lost_on_the_way=False)

    def ends(self, way: str) -> tuple[End, End]:
        if way == "down":
            return self.coordinator, self.agent
        return self.agent, self.coordinator

    @rule(way=WAYS)
    def offer(self, way: str) -> None:
        sender, _ = self.ends(way)
        self.payload += 1
        sender.session.offer(self.payload, 10)
        self.offered.setdefault((way, sender.session.epoch), []).append(self.payload)

    @rule(way=WAYS, count=st.integers(1, 4), handles=st.booleans())
    def exchange(self, way: str, count: int, handles: bool) -> None:
        """Several messages go the whole way, perhaps up to where they are handled."""
        for _ in range(count):
            self.offer(way)
            self.write(way)
            self.deliver(way, twice=False)
            if handles:
                self.handle(way)

    @rule(way=WAYS)
    def write(self, way: str) -> None:
        sender, _ = self.ends(way)
        following = sender.session.next_message() or (0, 0)
        self.wires[way].append((*following, sender.session.wanted))

    @rule(way=WAYS, twice=st.booleans())
    def deliver(self, way: str, twice: bool) -> None:
        """The next message arrives; twice, where something between the ends repeats it."""
        if not self.wires[way]:
            return
        message = self.wires[way].popleft()
        for _ in range(1 + twice):
            self.arrive(way, message)

    @rule(way=WAYS)
    def lose(self, way: str) -> None:
        if self.wires[way]:
            self.wires[way].popleft()

    def arrive(self, way: str, message: tuple[int, int, int]) -> None:
        _, receiver = self.ends(way)
        if not self.is_up:
            return
        try:
            self.delivered.update(receiver.receive(*message))
        except TiermeshError as error:
            # An acknowledgement that was repeated late is older than the newest: also a reason to meet again.
            assert "came" in error.what or "wants" in error.what  # noqa: PT017
            self.hang_up()

    @rule(way=WAYS)
    def handle(self, way: str) -> None:
        _, receiver = self.ends(way)
        if receiver.in_care:
            receiver.handle()

    @rule(what=st.sampled_from(["hang_up", "kill_agent", "kill_coordinator", "give_up"]))
    def break_down(self, what: str) -> None:
        getattr(self, what)()

    def hang_up(self) -> None:
        for end in (self.coordinator, self.agent):
            end.session.close(end.link)
        self.wires["down"].clear()
        self.wires["up"].clear()
        self.is_up = False

    @rule(lost_on_the_way=st.booleans())
    def meet(self, lost_on_the_way: bool) -> None:
        """Both ends' first messages; the second may be lost, so that only the agent knows of the connection."""
        self.hang_up()
        coordinator, agent = self.coordinator.session, self.agent.session
        self.tenure = self.tenure.claim(self.process, coordinator.epoch, agent.epoch)
        wanted = coordinator.wanted if self.tenure.epoch == agent.epoch else 1
        self.open("up", self.agent, wanted)
        if lost_on_the_way:
            agent.close(self.agent.link)
            return
        self.open("down", self.coordinator, agent.wanted)
        assert coordinator.epoch == agent.epoch
        self.is_up = True

    def open(self, way: str, end: End, wanted: int) -> None:
        opened = end.session.open(self.tenure.epoch, wanted, 0.0)
        end.link = opened.link
        assert opened.is_reset or not opened.in_doubt
        self.in_doubt[way].update(opened.in_doubt)

    def kill_agent(self) -> None:
        self.hang_up()
        self.forget(self.agent)
        self.agent = End()

    def kill_coordinator(self) -> None:
        self.hang_up()
        self.forget(self.coordinator)
        self.coordinator = End()
        self.starts += 1
        self.process = f"coordinator-{self.starts}"

    def give_up(self) -> None:
        self.hang_up()
        self.in_doubt["down"].update(self.coordinator.session.forget())

    def forget(self, end: End) -> None:
        """What a process that is killed had kept dies with it, and what it had handled is remembered here."""
        self.forgotten.update(payload for payload, _ in end.session._kept)
        self.remember(end)

    def remember(self, end: End) -> None:
        way = "down" if end is self.agent else "up"
        for epoch, payloads in end.handled.items():
            self.done.setdefault((way, epoch), []).extend(payloads)
        end.handled = {}

    @invariant()
    def each_message_is_handled_once_and_in_order(self) -> None:
        for end in (self.coordinator, self.agent):
            self.remember(end)
        once = [payload for payloads in self.done.values() for payload in payloads]
        assert len(once) == len(set(once))
        for (way, _), payloads in self.done.items():
            assert payloads == sorted(payloads), f"{way}: out of order"

    @invariant()
    def what_is_acknowledged_has_been_handled(self) -> None:
        handled = {payload for payloads in self.done.values() for payload in payloads}
        assert self.delivered <= handled

    @invariant()
    def nothing_is_unbounded(self) -> None:
        for end in (self.coordinator, self.agent):
            assert end.session.kept <= limits.CONTROL_MESSAGES_KEPT
            assert len(end.in_care) <= limits.CONTROL_MESSAGES_KEPT

    def teardown(self) -> None:
        """Left alone, the ends bring all to an end: handled, handed back as in doubt, or lost with its process."""
        self.meet(lost_on_the_way=False)
        for _ in range(3):
            for way in ("down", "up"):
                sender, receiver = self.ends(way)
                while sender.session._sent < sender.session.kept:
                    self.write(way)
                self.write(way)
                while self.wires[way]:
                    self.deliver(way, twice=False)
                while receiver.in_care:
                    receiver.handle()
        self.each_message_is_handled_once_and_in_order()
        assert self.coordinator.session.kept == self.agent.session.kept == 0
        handled = {payload for payloads in self.done.values() for payload in payloads}
        accounted = handled | self.in_doubt["down"] | self.in_doubt["up"] | self.forgotten
        assert set(range(1, self.payload + 1)) == accounted


TwoEnds.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
test_two_ends = TwoEnds.TestCase


def met(epoch: int = 1, wanted: int = 1) -> tuple[ControlSession[str], int]:
    session: ControlSession[str] = ControlSession(0.0)
    return session, session.open(epoch, wanted, 0.0).link


def test_after_a_break_only_what_was_not_handled_is_sent_again() -> None:
    session, _ = met()
    for text in ("a", "b", "c"):
        session.offer(text, 1)
    assert [session.next_message() for _ in range(4)] == [(1, "a"), (2, "b"), (3, "c"), None]
    opened = session.open(1, 3, 1.0)
    assert (opened.is_reset, opened.in_doubt) == (False, [])
    assert session.next_message() == (3, "c")


def test_another_epoch_hands_back_what_is_in_doubt_and_begins_at_one() -> None:
    session, link = met()
    assert session.is_new(link, 1)
    for text in ("a", "b"):
        session.offer(text, 1)
    session.next_message()
    opened = session.open(2, 1, 1.0)
    assert (opened.is_reset, opened.in_doubt) == (True, ["a", "b"])
    session.handled(1)
    assert session.wanted == 1, "the end of a message of the session before does not count"
    assert session.is_new(opened.link, 1)


def test_a_stale_connection_is_refused() -> None:
    session, stale = met()
    session.open(1, 1, 1.0)
    with pytest.raises(TakenOver):
        session.is_new(stale, 1)
    with pytest.raises(TakenOver):
        session.acknowledged(stale, 1)
    session.close(stale)
    assert session.is_up


@pytest.mark.parametrize("wanted", [0, 3, 2**63])
def test_an_end_that_wants_what_was_never_sent_is_refused(wanted: int) -> None:
    session, link = met()
    session.offer("sent", 1)
    session.offer("waiting", 1)
    session.next_message()
    with pytest.raises(TiermeshError, match="messages 1 to 1"):
        session.acknowledged(link, wanted)


def test_a_missing_message_is_noticed() -> None:
    session, link = met()
    with pytest.raises(TiermeshError, match="message 1 is due"):
        session.is_new(link, 2)


def test_no_more_is_kept_than_the_limits() -> None:
    session, _ = met()
    for _ in range(limits.CONTROL_MESSAGES_KEPT):
        session.offer("x", 1)
    with pytest.raises(LimitExceeded, match="1024 messages"):
        session.offer("x", 1)
    session, _ = met()
    session.offer("x", limits.CONTROL_BYTES_KEPT)
    with pytest.raises(LimitExceeded):
        session.offer("x", 1)


def test_an_end_that_does_not_wait_for_its_messages_to_be_handled_is_refused() -> None:
    session, link = met()
    for number in range(1, limits.CONTROL_MESSAGES_KEPT + 1):
        assert session.is_new(link, number)
    with pytest.raises(LimitExceeded, match="are queued already"):
        session.is_new(link, limits.CONTROL_MESSAGES_KEPT + 1)
    session.handled(1)
    assert session.is_new(link, limits.CONTROL_MESSAGES_KEPT + 1)


def test_an_end_that_talks_too_much_is_refused() -> None:
    session, _ = met()
    for _ in range(2):
        session.heard(5.0, numbered=True)
    for i in range(limits.CONTROL_UNNUMBERED_PER_S):
        session.heard(5.0 + i / 1_000, numbered=False)
    with pytest.raises(LimitExceeded, match="within a second"):
        session.heard(5.5, numbered=False)


def test_silence_counts_from_the_last_word_and_not_while_nobody_listened() -> None:
    session, _ = met()
    session.heard(10.0, numbered=False)
    assert not session.is_silent(10.0 + SILENCE_S)
    assert session.is_silent(10.1 + SILENCE_S)
    session.excuse(1.0)
    assert not session.is_silent(10.1 + SILENCE_S)


def test_a_new_coordinator_takes_over_and_the_one_before_is_refused() -> None:
    first = Tenure().claim("one", 0, 0)
    assert (first.epoch, first.holder) == (1, "one")
    second = first.claim("two", 0, 1)
    assert (second.epoch, second.holder) == (2, "two")
    with pytest.raises(TakenOver, match="session 1 is over"):
        second.claim("one", 1, 2)
    assert second.claim("two", 2, 2) == second, "its session goes on"


def test_after_a_start_of_the_agent_its_coordinator_gets_a_new_session_and_no_other_does() -> None:
    kept = Tenure(5, "two")
    assert kept.claim("two", 5, 0) == Tenure(6, "two")
    # The answer to that was lost, so the coordinator still asks for session 5.
    assert Tenure(6, "two").claim("two", 5, 6) == Tenure(7, "two")
    with pytest.raises(TakenOver):
        kept.claim("one", 4, 0)
