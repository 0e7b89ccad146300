"""One replica of a source, as a state machine: what it offers when, and the ledger of what it has accepted."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

from agent.serving.arrivals import Arrivals
from agent.serving.instructions import Instruction, Read, Record
from agent.serving.ledger import Ledger, Request
from tiermesh import ids

ACCEPTED_AT_ONCE: Final = 32


class Source:
    """Offers `files` in order, by index; `run` names the run, with what tells this source's requests apart."""

    def __init__(
        self,
        key: str,
        stage: str,
        replica: str,
        *,
        workflow: str,
        run: str,
        arrivals: Arrivals,
        files: Sequence[str],
        ledger: Ledger,
        now: float,
    ) -> None:
        self.key = key
        self.stage = stage
        self.replica = replica
        self.ledger = ledger
        self.retired = False
        self._workflow = workflow
        self._run = run
        self._arrivals = arrivals
        self._files = files
        self._next_at = now + (0.0 if self._is_over else arrivals.gap(self._index))

    def adopt(self, replica: str, arrivals: Arrivals, files: Sequence[str], now: float) -> None:
        """Go on as a replica of a newer generation of the same run."""
        self.replica = replica
        self.retired = False
        self._arrivals = arrivals
        self._files = files
        self._next_at = min(
            self._next_at, now + (0.0 if self._is_over else arrivals.gap(self._index))
        )

    @property
    def _index(self) -> int:
        return self.ledger.counts.accepted

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
        arrival = inf if self._is_over or not self.ledger.may_accept else self._next_at
        return min(arrival, self.ledger.next_due)

    def accept(self, now: float) -> list[Instruction]:
        """Accept what is due, as far as the window allows."""
        accepted: list[Request] = []
        while (
            not self._is_over
            and self._next_at <= now
            and self.ledger.may_accept
            and len(accepted) < ACCEPTED_AT_ONCE
        ):
            index = self._index
            request = ids.request_id(self._workflow, self._run, index)
            file = self._files[index % len(self._files)]
            accepted.append(self.ledger.accept(index, request, file, now))
            if not self._is_over:
                self._next_at += self._arrivals.gap(self._index)
        return [Record(self.key, tuple(accepted))] if accepted else []

    def due(
        self, now: float, *, blocked: bool = False
    ) -> tuple[list[Instruction], list[str], list[Request]]:
        """What is due of the accepted ones: files to read, ids of requests to fail, requests to ask about."""
        due = self.ledger.due(now, blocked=blocked)
        return [Read(self.key, r) for r in due.inject], [r.id for r in due.fail], due.ask
