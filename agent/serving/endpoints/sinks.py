"""The sinks of a workflow on one device, also those that were here before: what ends and what has ended. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from agent.serving.endpoints.attainment import RequestOutcome
from agent.serving.endpoints.request import SinkResult
from agent.serving.endpoints.sink import SinkAction, SinkState
from agent.serving.instructions import Drop, Write
from agent.serving.routing.forwarding import Generations, Post
from agent.serving.routing.generation import Generation
from tiermesh.errors import TiermeshError
from tiermesh.frames import EMPTY, Frame, Kind, Packed, pack

_SAID: Final = {
    Kind.ERROR: pack({"ended": RequestOutcome.ERROR.value}),
    Kind.FILTERED: pack({"ended": RequestOutcome.FILTERED.value}),
}
"""What a confirmation says of how a request ended; nothing of a result, as agents before it do of all."""


class Sinks:
    """All sinks here, by stage."""

    def __init__(self, post: Post, generations: Generations) -> None:
        self.by_stage: dict[str, SinkState] = {}
        self._post = post
        self._generations = generations

    def fence(self, former: Generation | None, generation: Generation) -> None:
        """A sink takes nothing that was sent before it was here: that may end at the device where it was."""
        for name, sink in self.by_stage.items():
            if generation.queue_of(name) is None:
                sink.since = generation.number + 1
            elif former is None or former.queue_of(name) is None:
                sink.since = generation.number

    def arrive(self, stage: str, frame: Frame, now: float) -> SinkAction:
        """A frame ends a request at a sink; whoever is told WRITE calls `written`."""
        sink = self.by_stage[stage]
        if stage in frame.done:
            # It has ended here, or where this sink was before.
            return SinkAction.WAIT
        if frame.generation < sink.since and not sink.has_ended(frame.request_id):
            self._post.give_back(frame, "", f"{stage} has moved", now)
            return SinkAction.WAIT
        arrival = sink.arrive(frame)
        if arrival is SinkAction.CONFIRM:
            self._confirm(frame, sink.ended(frame.request_id), now)
        return arrival

    def written(self, writes: Iterable[Write], now: float) -> None:
        """The ends of requests are on disk: their sources may forget them."""
        for write in writes:
            frame = write.frame
            self.by_stage[write.sink].written(frame.request_id, frame.kind, write.run)
            if write.release is not None:
                write.release()
            self._confirm(frame, frame.kind, now)

    def answer(self, frame: Frame, now: float) -> None:
        """A source asks whether a request ended at a sink that was here."""
        sink = self.by_stage.get(frame.stage)
        if sink is None or sink.is_writing(frame.request_id):
            return
        if sink.has_ended(frame.request_id):
            # On which lane it came is not known: it is of no generation.
            self._confirm(replace(frame, generation=0), sink.ended(frame.request_id), now)
        elif sink.since > self._generations.current:
            clear = replace(frame, kind=Kind.CLEAR, origin=self._post.device, sources=())
            for source in frame.sources:
                self._post.send_to(source, clear, now)

    def drop(self, frame: Frame, now: float) -> None:
        """A source says that a request has ended elsewhere: it must not count here, nor end here later."""
        sink = self.by_stage.get(frame.stage)
        if sink is not None and sink.is_writing(frame.request_id):
            return
        if sink is not None and sink.has_written(frame.request_id):
            self._post.do(Drop(frame.stage, frame))
            return
        if sink is not None:
            sink.refuse(frame.request_id)
        self._say_dropped(frame, now)

    def dropped(self, drops: Iterable[tuple[Drop, Kind | None]], now: float) -> None:
        """The ends of requests are out of a sink's file; of which kind each was."""
        for drop, kind in drops:
            self.by_stage[drop.sink].dropped(drop.frame.request_id, kind)
            self._say_dropped(drop.frame, now)

    def _say_dropped(self, frame: Frame, now: float) -> None:
        said = replace(frame, kind=Kind.DROPPED, origin=self._post.device, sources=())
        for source in frame.sources:
            self._post.send_to(source, said, now)

    def _confirm(self, frame: Frame, ended: Kind | None, now: float) -> None:
        if not frame.sources:
            return
        confirm = replace(
            frame,
            kind=Kind.CONFIRM,
            origin=frame.stage,
            stage="",
            sources=(),
            payload=self._said(frame, ended),
            error="",
            deadline=0.0,
            done=(),
        )
        for source in frame.sources:
            self._post.send_to(source, confirm, now)

    def _said(self, frame: Frame, ended: Kind | None) -> Packed:
        """What a confirmation says: how the request ended and, where the sink returns that, what came of it."""
        said = _SAID.get(ended, EMPTY) if ended is not None else EMPTY
        if not self.by_stage[frame.stage].returns_results or frame.kind is not ended:
            return said
        try:
            if frame.kind is Kind.ERROR:
                return pack({"ended": RequestOutcome.ERROR.value, "error": frame.error})
            if frame.kind is Kind.DATA:
                return pack({"result": frame.payload.unpack()})
        except TiermeshError as error:
            # Confirmed it must be, or the request would never end.
            return pack({"error": f"the result cannot be returned: {error}"})
        return said


def result_of(confirm: Frame) -> SinkResult | None:
    """What a confirmation says came of its request; None where the sink does not return that."""
    try:
        said = confirm.payload.unpack()
    except TiermeshError:
        return None
    if "result" not in said and "error" not in said:
        return None
    return SinkResult(said.get("result"), str(said.get("error", "")))


def how_it_ended(confirm: Frame) -> RequestOutcome:
    """How the request of a confirmation ended: with a result, where it says nothing else."""
    if confirm.payload == EMPTY:
        return RequestOutcome.RESULT
    try:
        return RequestOutcome(confirm.payload.unpack().get("ended", RequestOutcome.RESULT))
    except (TiermeshError, ValueError):
        return RequestOutcome.RESULT
