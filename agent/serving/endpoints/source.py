"""One replica of a source, as a state machine: what it offers when, and the ledger of what it has accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from agent.serving.endpoints.arrivals import ArrivalSchedule
from agent.serving.endpoints.ledger import Request, RequestLedger
from agent.serving.instructions import Instruction, Read, Record
from agent.serving.steering.steering import Steering
from tiermesh import ids

ACCEPTED_AT_ONCE: Final = 32
BURST_S: Final = 1.0
"""Where a source is paced, this much of a second's requests may come at once."""
SLOWED_S: Final = 2.0
"""A source whose next request has been due for so long is slowed, and says so."""


class RateLimiter:
    """Lets through at most `rate_rps`, and bursts of `BURST_S`: a token bucket, kept as the time that it is paid until.

    Source: the generic cell rate algorithm, as virtual scheduling (ITU-T I.371).
    """

    def __init__(self, rate_rps: float | None) -> None:
        self.rate_rps = rate_rps
        self._paid = -inf

    @property
    def next_at(self) -> float:
        """When the next one may pass."""
        return self._paid - BURST_S

    def passed(self, now: float) -> None:
        """One has passed."""
        if self.rate_rps is not None:
            self._paid = max(self._paid, now) + 1 / self.rate_rps


@dataclass(frozen=True, slots=True)
class Steered:
    """What moves a source's requests between its lanes in a generation; `lanes` are their numbers, as in `Steering`."""

    generation: int
    lanes: tuple[int, ...]
    steering: Steering | None
    """None: they stay as planned."""

    @property
    def shares(self) -> dict[int, float]:
        """By lane of the plan, its share now of what this source makes; empty where shares stay as planned."""
        if self.steering is None:
            return {}
        return dict(zip(self.lanes, self.steering.shares, strict=True))

    def lane(self, index: int) -> int:
        """The number, in `Steering`, of a lane of the plan."""
        return self.lanes.index(index)


class SourceState:
    """Offers `files` in order, by index; `run` names the run, with what tells this source's requests apart."""

    def __init__(
        self,
        key: str,
        stage: str,
        replica: str,
        *,
        workflow: str,
        run: str,
        arrivals: ArrivalSchedule,
        files: Sequence[str],
        ledger: RequestLedger,
        now: float,
    ) -> None:
        self.key = key
        self.stage = stage
        self.replica = replica
        self.ledger = ledger
        self.retired = False
        self.steered: Steered | None = None
        self._workflow = workflow
        self._run = run
        self._arrivals = arrivals
        self._pacing = RateLimiter(arrivals.admit_rps)
        self._slowed = False
        self._files = files
        self._next_at = now + (0.0 if self._is_over else arrivals.gap(self._index))

    def adopt(
        self, replica: str, arrivals: ArrivalSchedule, files: Sequence[str], now: float
    ) -> None:
        """Go on as a replica of a newer generation of the same run."""
        self.replica = replica
        self.retired = False
        self._arrivals = arrivals
        if arrivals.admit_rps != self._pacing.rate_rps:
            self._pacing = RateLimiter(arrivals.admit_rps)
        self._files = files
        self._next_at = min(
            self._next_at, now + (0.0 if self._is_over else arrivals.gap(self._index))
        )

    @property
    def _index(self) -> int:
        return self.ledger.counts.accepted

    @property
    def shares(self) -> dict[int, float]:
        """By lane of the plan, its share now of what this source makes; empty where shares stay as planned."""
        return self.steered.shares if self.steered is not None else {}

    @property
    def planned_rps(self) -> float:
        """The rate that the plan has found lanes for."""
        made = 1 / self._arrivals.mean_gap
        return min(made, self._pacing.rate_rps or made)

    @property
    def _is_over(self) -> bool:
        count = self._arrivals.count
        return self.retired or (count is not None and self._index >= count)

    @property
    def is_finished(self) -> bool:
        """Whether all its requests are accepted and have ended."""
        return self._is_over and not self.ledger.requests

    def retire(self) -> None:
        """Accept no more; what is in flight is brought to its end."""
        self.retired = True

    def next_at(self) -> float:
        """When the next request is due, or something must be done about an accepted one."""
        arrival = max(self._next_at, self._pacing.next_at)
        if self._is_over or not self.ledger.may_accept:
            arrival = inf
        return min(arrival, self.ledger.next_due)

    def waiting(self, now: float) -> int:
        """Requests that are due and not accepted, since there is no room for them below; about, if they are uneven."""
        if self._is_over:
            return 0
        due = max(int((now - self._next_at) / self._arrivals.mean_gap), 0)
        count = self._arrivals.count
        return due if count is None else min(due, count - self._index)

    def slowed(self, now: float) -> str | None:
        """What to tell people where the source has come to be slowed, or is no longer; None where nothing is new."""
        behind = 0.0 if self._is_over else now - self._next_at
        if not self._slowed and behind > SLOWED_S:
            self._slowed = True
            admitted = self._pacing.rate_rps
            why = (
                "the devices take no more"
                if admitted is None
                else f"the plan carries {admitted:.3g}"
            )
            made = 1 / self._arrivals.mean_gap
            return (
                f"it makes {made:.3g} requests a second, and {why}: the others wait to be accepted"
            )
        if self._slowed and behind <= self._arrivals.mean_gap:
            self._slowed = False
            return "no request waits to be accepted any more"
        return None

    def accept(self, now: float) -> list[Instruction]:
        """Accept what is due, as far as the window allows."""
        accepted: list[Request] = []
        while (
            not self._is_over
            and max(self._next_at, self._pacing.next_at) <= now
            and self.ledger.may_accept
            and len(accepted) < ACCEPTED_AT_ONCE
        ):
            index = self._index
            request = ids.request_id(self._workflow, self._run, index)
            file = self._files[index % len(self._files)]
            accepted.append(self.ledger.accept(index, request, file, now, self._next_at))
            self._pacing.passed(now)
            if not self._is_over:
                self._next_at += self._arrivals.gap(self._index)
        return [Record(self.key, tuple(accepted))] if accepted else []

    def due(
        self, now: float, *, blocked: bool = False
    ) -> tuple[list[Instruction], list[str], list[Request]]:
        """What is due of the accepted ones: files to read, ids of requests to fail, requests to ask about."""
        due = self.ledger.due(now, blocked=blocked)
        return [Read(self.key, r) for r in due.inject], [r.id for r in due.fail], due.ask
