"""The rule by which a source moves shares between its lanes, and back to those of the plan.

There is one owner of each share: the source's replica. A lane that falls behind gives a bounded part of its share to
lanes that keep up, within the room that the plan has found on their devices. It gets it back by what comes back on it
in good time, ever more slowly where that made it fall behind again; so shares do not swing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from agent.serving.steering.floor import Floor
from agent.serving.steering.watch import LaneWatch

EVERY_S: Final = 0.25
HOLD_S: Final = 1.0
"""At least so long a lane keeps a share that was changed."""
CUT_MOST: Final = 0.25
CUT_LEAST: Final = 0.5
"""What is left of a share that is cut, at least and at most, while some of it comes back."""
CUT_STUCK: Final = 0.1
CARRIES: Final = 0.8
"""Of what a lane that falls behind has shown to carry, it keeps this much: what waits there must go, too."""
TRICKLE: Final = 0.05
"""What is left of a planned share, so that it is seen when the lane keeps up again."""
SEEN_LEAST: Final = 3
GOOD: Final = 0.8
"""A lane gets something back when so many requests have come back, and this part of them as quickly as is usual."""
LITTLE: Final = 0.2
"""While it has less than this part of its share, one is enough."""
GROWTH: Final = 0.5
GROWTH_LEAST: Final = 0.005
SOON_S: Final = 60.0
"""A lane that falls behind so soon after it has got something back gets the rest more slowly."""
EQUAL: Final = 1e-9


@dataclass(frozen=True, slots=True)
class LaneRule:
    """What the plan says of a lane: its share, the most that it may get, its accuracy, and where its requests end."""

    planned: float
    most: float
    accuracy: float | None = None
    ends: tuple[str, ...] = ()


@dataclass(slots=True)
class _State:
    held_until: float = -inf
    grown_at: float = -inf
    eased_at: float = -inf
    growth: float = GROWTH


@dataclass(slots=True)
class Moves:
    """How often a share was lessened, and given back."""

    away: int = 0
    back: int = 0
    states: list[_State] = field(default_factory=list[_State])


class SteeringRule:
    """The shares of one source's lanes. `accuracy` lets it move requests to lanes that are less accurate, too."""

    def __init__(self, lanes: Sequence[LaneRule], floor: Floor, *, accuracy: bool = True) -> None:
        self.lanes = lanes
        self.shares = [lane.planned for lane in lanes]
        self.moves = Moves(states=[_State() for _ in lanes])
        self.load = 1.0
        """How many times the planned rate there is to do, where it is surely more: rooms are smaller by as much."""
        self._floor = floor
        self._accuracy = accuracy

    @property
    def is_moved(self) -> bool:
        """Whether the shares are others than planned."""
        return any(
            abs(share - lane.planned) > EQUAL
            for share, lane in zip(self.shares, self.lanes, strict=True)
        )

    def step(self, watches: Sequence[LaneWatch], now: float) -> None:
        """Look at all lanes, every `EVERY_S`."""
        behind = {i for i, watch in enumerate(watches) if watch.is_behind(now)}
        stuck = {i for i, watch in enumerate(watches) if watch.is_stuck(now)}
        for lane in sorted(behind | stuck, key=lambda i: -watches[i].overdue(now)):
            if now >= self.moves.states[lane].held_until:
                left = CUT_STUCK if lane in stuck else self._carried(watches[lane], now)
                if self._relieve(lane, left, watches, behind | stuck, now):
                    watches[lane].changed_at = now
                    watches[lane].anew()
        for lane, watch in enumerate(watches):
            if lane not in behind | stuck and self.shares[lane] < self.lanes[lane].planned - EQUAL:
                self._give_back(lane, watch, now)

    @staticmethod
    def _carried(watch: LaneWatch, now: float) -> float:
        return min(max(CARRIES * watch.kept_up(now), CUT_MOST), CUT_LEAST)

    def _relieve(
        self,
        lane: int,
        left: float,
        watches: Sequence[LaneWatch],
        behind: Collection[int],
        now: float,
    ) -> bool:
        """A lane falls behind: what it has above its planned share goes back, or else a part goes to others."""
        extra = self.shares[lane] - self.lanes[lane].planned
        below = [
            i
            for i, other in enumerate(self.lanes)
            if other.ends == self.lanes[lane].ends
            and self.shares[i] < other.planned - EQUAL
            and i not in behind
            and not watches[i].overdue(now)
        ]
        if extra <= EQUAL or not below:
            return self._lessen(lane, left, behind, now)
        gaps = {i: self.lanes[i].planned - self.shares[i] for i in below}
        moved = min(extra, sum(gaps.values()) / 2)
        for i in below:
            self._take_back(i, moved * gaps[i] / sum(gaps.values()))
            self.moves.states[i].held_until = now + HOLD_S
        self.moves.states[lane].held_until = now + HOLD_S
        self.moves.back += 1
        return True

    def _lessen(self, lane: int, left: float, behind: Collection[int], now: float) -> bool:
        """Give a part of a lane's share to others: first to those that are as accurate, then to the rest.

        Returns whether anything was moved.
        """
        state, asked = self.moves.states[lane], self.shares[lane] * (1 - left)
        asked = min(asked, self.shares[lane] - TRICKLE * self.lanes[lane].planned)
        if asked <= EQUAL or not self._floor.is_known(lane):
            return False
        targets = [i for i in self._targets(lane) if i not in behind]
        equal = [i for i in targets if self._floor.loss(lane, i) <= EQUAL]
        moved = self._pour(lane, equal, asked)
        if self._accuracy:
            moved += self._pour_down(lane, [i for i in targets if i not in equal], asked - moved)
        if moved <= EQUAL:
            return False
        self.moves.away += 1
        if now - state.grown_at < SOON_S:
            state.growth = max(state.growth / 2, GROWTH_LEAST)
        state.held_until = now + HOLD_S
        state.eased_at = now
        return True

    def _targets(self, lane: int) -> list[int]:
        """Lanes that may take something from another: those that keep up, have room, and end at the same sinks."""
        return [
            i
            for i, other in enumerate(self.lanes)
            if i != lane
            and other.ends == self.lanes[lane].ends
            and self.shares[i] >= other.planned - EQUAL
            and self._room(i) > EQUAL
            and self._floor.is_known(i)
        ]

    def _room(self, lane: int) -> float:
        return self.lanes[lane].most / self.load - self.shares[lane]

    def _pour(self, lane: int, targets: Sequence[int], asked: float) -> float:
        """Move a share to others by their room; returns how much it was."""
        room = sum(self._room(i) for i in targets)
        moved = min(asked, room)
        if moved <= EQUAL:
            return 0.0
        for i, part in [(i, self._room(i) / room) for i in targets]:
            self.shares[i] += moved * part
        self.shares[lane] -= moved
        return moved

    def _pour_down(self, lane: int, targets: Sequence[int], asked: float) -> float:
        """The same to lanes that are less accurate, the most accurate first, as far as the floor allows."""
        moved = 0.0
        for target in sorted(targets, key=lambda i: self._floor.loss(lane, i)):
            slack = self._floor.slack(self.shares)
            allowed = slack / self._floor.loss(lane, target)
            moved += self._pour(lane, [target], min(asked - moved, allowed))
        return moved

    def _give_back(self, lane: int, watch: LaneWatch, now: float) -> None:
        """A lane below its share gets some back, when what it has comes back in good time."""
        state, planned = self.moves.states[lane], self.lanes[lane].planned
        if now - state.eased_at > SOON_S:
            state.growth, state.eased_at = min(2 * state.growth, GROWTH), now
        needed = 1 if self.shares[lane] <= LITTLE * planned else SEEN_LEAST
        if now < state.held_until or watch.seen < needed or watch.overdue(now):
            return
        if watch.good < GOOD * watch.seen:
            watch.anew()
            return
        step = (self.shares[lane] + TRICKLE * planned) * state.growth
        if self._take_back(lane, min(step, planned - self.shares[lane])):
            self.moves.back += 1
            state.held_until, state.grown_at = now + HOLD_S, now
            watch.anew()

    def _take_back(self, lane: int, asked: float) -> bool:
        """Take a share from lanes that have more than planned, as far as the floor allows; whether it was any."""
        surplus = {
            i: self.shares[i] - other.planned
            for i, other in enumerate(self.lanes)
            if other.ends == self.lanes[lane].ends and self.shares[i] > other.planned + EQUAL
        }
        total = sum(surplus.values())
        loss = sum(-self._floor.gain(i, lane) * more / total for i, more in surplus.items())
        moved = min(asked, total)
        if loss > EQUAL:
            moved = min(moved, self._floor.slack(self.shares) / loss)
        if moved <= EQUAL:
            return False
        for i, more in surplus.items():
            self.shares[i] = max(self.shares[i] - moved * more / total, 0.0)
        self.shares[lane] += moved
        return True
