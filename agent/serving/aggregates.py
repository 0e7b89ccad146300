"""What an aggregate folds: state by key, and what was made of each request that its source may still send again.

State and outputs change together. Where the stage code can say its state (`dump` and `load`), both are on disk before
an output leaves, so a worker that is killed goes on where it was. Otherwise they are in memory: after a kill the state
begins anew, with the requests that no sink had confirmed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.serving import stagecode
from agent.serving.batcher import Work
from tiermesh.errors import StorageFull, TiermeshError
from tiermesh.frames import Frame, Packed, pack

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Snapshot:
    """All that an aggregate knows, or what has changed of it.

    `states` by key, as the stage code says them; `outputs` by series and number; `positions` are the numbers that come
    next, by series; below the number in `settled` nothing is sent again.
    """

    states: dict[str, Packed] = field(default_factory=dict[str, Packed])
    outputs: dict[tuple[str, int], Packed] = field(default_factory=dict[tuple[str, int], Packed])
    positions: dict[str, int] = field(default_factory=dict[str, int])
    settled: dict[str, int] = field(default_factory=dict[str, int])


class Keeper(Protocol):
    """Where a snapshot is kept."""

    def load(self) -> Snapshot:
        """What was kept."""
        ...

    def keep(self, change: Snapshot) -> None:
        """Keep what has changed, all or none.

        Raises:
            StorageFull: it cannot be kept.
        """
        ...

    def discard(self) -> None:
        """Forget everything."""
        ...


class Aggregate:
    """One aggregate's state. Not thread-safe; `code` is the stage code, `field` the payload's field with the key."""

    def __init__(self, code: Any, name: str, field: str, keeper: Keeper | None) -> None:
        self._code = code
        self._name = name
        self._field = field
        self._keeper = keeper if stagecode.can_be_kept(code) else None
        kept = self._keeper.load() if self._keeper is not None else Snapshot()
        self.positions = kept.positions
        self.resumed_keys = len(kept.states)
        self._states: dict[str, Any] = {
            key: code.load(stagecode.arrays(state.unpack())) for key, state in kept.states.items()
        }
        self._outputs = kept.outputs
        self._settled = kept.settled
        self._change = Snapshot()

    @property
    def is_kept(self) -> bool:
        """Whether its state survives the worker."""
        return self._keeper is not None

    def fold(self, work: Work) -> Packed:
        """What becomes of a request: folded in once, in order; a repeated one gets the output that it had.

        Raises:
            TiermeshError: the payload has no key, or the request has ended before.
        """
        frame = work.frame
        self._settle(frame)
        place = frame.series, frame.index
        if place in self._outputs:
            return self._outputs[place]
        if frame.index < self._settled.get(frame.series, 0):
            raise TiermeshError("the request has ended before")
        try:
            output = self._fold(stagecode.arrays(frame.payload.unpack()))
            self._outputs[place] = self._change.outputs[place] = output
        finally:
            after = max(frame.index + 1, self.positions.get(frame.series, 0))
            self.positions[frame.series] = self._change.positions[frame.series] = after
        return output

    def _fold(self, payload: dict[str, Any]) -> Packed:
        if self._field not in payload:
            raise TiermeshError(f"the payload has no {self._field!r}, the key of {self._name}")
        key = str(payload[self._field])
        state = self._states[key] if key in self._states else self._code.start(key)
        state, output = self._code.fold(state, payload)
        packed = pack(output)
        if self._keeper is not None:
            self._change.states[key] = pack(self._code.dump(state))
        self._states[key] = state
        return packed

    def _settle(self, frame: Frame) -> None:
        """Below `settled` no request is sent again: what was made of it is forgotten."""
        before = self._settled.get(frame.series, 0)
        if frame.settled <= before:
            return
        self._settled[frame.series] = self._change.settled[frame.series] = frame.settled
        gone = [p for p in self._outputs if p[0] == frame.series and p[1] < frame.settled]
        for place in gone:
            del self._outputs[place]

    def keep(self) -> None:
        """Keep what has changed since the last call, before any of it leaves."""
        change, self._change = self._change, Snapshot()
        if self._keeper is None or not change.positions:
            return
        try:
            self._keeper.keep(change)
        except StorageFull as error:
            log.error("%s goes on in memory: %s", self._name, error)
            self._keeper.discard()
            self._keeper = None

    def discard(self) -> None:
        """Nobody uses it any more."""
        if self._keeper is not None:
            self._keeper.discard()
