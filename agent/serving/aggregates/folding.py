"""What an aggregate folds: state by key, and what was made of each request that its source may still send again.

State and outputs change together. Where the stage code can say its state (`dump` and `load`), both are on disk before
an output leaves, so a worker that is killed goes on where it was. Otherwise they are in memory: after a kill the state
begins anew, with the requests that no sink had confirmed.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Protocol

from agent.errors import StageCodeFailed
from agent.model_host import stage_code
from agent.serving.aggregates.snapshot import AggregateSnapshot, Given, HeldAggregate
from agent.serving.batcher import Work
from tiermesh.arrays import arrays
from tiermesh.errors import StorageFull, TiermeshError
from tiermesh.frames import Frame, Packed, pack

log = logging.getLogger(__name__)


class SnapshotStore(Protocol):
    """Where a snapshot is kept."""

    def load(self) -> AggregateSnapshot:
        """What was kept."""
        ...

    def keep(self, change: AggregateSnapshot) -> None:
        """Keep what has changed, all or none.

        Raises:
            StorageFull: it cannot be kept.
        """
        ...

    def held(self) -> HeldAggregate:
        """Whose the state is."""
        ...

    def adopt(self, snapshot: AggregateSnapshot, since: int, pending: str) -> None:
        """Hold this state and no other; StorageFull: it cannot be kept."""
        ...

    def own(self) -> None:
        """The state is no copy any more."""
        ...

    def give(self, given: Given) -> None:
        """The state is another device's from now on."""
        ...

    def close(self) -> None:
        """It is not used for now."""
        ...

    def discard(self) -> None:
        """Forget everything."""
        ...


class AggregateState:
    """One aggregate's state. Not thread-safe; `code` is the stage code, `field` the payload's field with the key."""

    def __init__(self, code: Any, name: str, field: str, keeper: SnapshotStore | None) -> None:
        self._code = code
        self.name = name
        self._field = field
        self._keeper = keeper if stage_code.can_be_kept(code) else None
        self._held = HeldAggregate(kept=False) if self._keeper is None else self._keeper.held()
        self._change = AggregateSnapshot()
        self._states: dict[str, Any] = {}
        self._outputs: dict[tuple[str, int], Packed] = {}
        self._settled: dict[str, int] = {}
        self.positions: dict[str, int] = {}
        self.resumed_keys = 0
        if self._keeper is not None:
            kept = self._keeper.load()
            self._go_on(kept, self._loaded(kept))

    def _loaded(self, kept: AggregateSnapshot) -> dict[str, Any]:
        load, states = self._code.load, kept.states
        return {key: load(arrays(state.unpack())) for key, state in states.items()}

    def _go_on(self, kept: AggregateSnapshot, states: dict[str, Any]) -> None:
        self._states = states
        self._outputs = kept.outputs
        self._settled = kept.settled
        self.positions = kept.positions
        self.resumed_keys = len(states)
        self._change = AggregateSnapshot()

    @property
    def held(self) -> HeldAggregate:
        """Whose its state is, and where it goes on."""
        return replace(self._held, kept=self.is_kept, positions=dict(self.positions))

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
            output = self._fold(arrays(frame.payload.unpack()))
            self._outputs[place] = self._change.outputs[place] = output
        finally:
            after = max(frame.index + 1, self.positions.get(frame.series, 0))
            self.positions[frame.series] = self._change.positions[frame.series] = after
        return output

    def _fold(self, payload: dict[str, Any]) -> Packed:
        if self._field not in payload:
            raise TiermeshError(f"the payload has no {self._field!r}, the key of {self.name}")
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
        change, self._change = self._change, AggregateSnapshot()
        if self._keeper is None or not change.positions:
            return
        try:
            self._keeper.keep(change)
        except StorageFull as error:
            log.error("aggregate %s continues in memory: %s", self.name, error)
            self._keeper.discard()
            self._keeper = None

    def snapshot(self) -> AggregateSnapshot:
        """All that it knows, for another device.

        Raises:
            TiermeshError: its state is in memory only.
        """
        if self._keeper is None:
            raise TiermeshError(f"the state of {self.name} is in memory only")
        return self._keeper.load()

    def adopt(self, snapshot: AggregateSnapshot, since: int, pending: str = "") -> None:
        """Go on from this state instead of its own, since generation `since`; see `HeldAggregate`.

        Raises:
            StorageFull: it cannot be kept. TiermeshError: the stage code cannot read it. What it had it still has.
        """
        try:
            states = self._loaded(snapshot) if snapshot.states else {}
        except Exception as error:
            raise StageCodeFailed.by(error, f"{self.name} cannot load its state") from error
        if self._keeper is not None:
            self._keeper.adopt(snapshot, since, pending)
        self._go_on(snapshot, states)
        self._held = HeldAggregate(since, pending)

    def own(self) -> None:
        """The state is no copy any more: the device that gave it has let go of its own."""
        self._held = replace(self._held, pending="")
        if self._keeper is not None:
            self._keeper.own()

    def give(self, given: Given) -> None:
        """The state is another device's from now on.

        Raises:
            StorageFull: that cannot be kept, so the state stays.
        """
        if self._keeper is not None:
            self._keeper.give(given)
        self._go_on(AggregateSnapshot(), {})
        self._held = HeldAggregate(given=given)

    def close(self) -> None:
        """Nobody uses it for now; what is kept stays."""
        if self._keeper is not None:
            self._keeper.close()
