"""The sources of a workflow on one device: they inject requests and hear what became of them. Pure."""

from __future__ import annotations

from collections.abc import Collection
from math import inf
from typing import Final

from msgspec.structs import replace

from agent.serving.endpoints.attainment import RequestOutcome
from agent.serving.endpoints.feeds import FeedRequest
from agent.serving.endpoints.ledger import RequestLedger
from agent.serving.endpoints.request import PossibleDuplicate, Request
from agent.serving.endpoints.sinks import how_it_ended, result_of
from agent.serving.endpoints.source import SourceState, Steered
from agent.serving.instructions import Forget, RejectOffers, Settled
from agent.serving.routing.forwarding import Generations, Post
from agent.serving.routing.generation import Generation
from agent.serving.steering.rule import LaneRule
from agent.serving.steering.steering import Steering
from agent.serving.streams.sender import PeerLink
from tiermesh.errors import TiermeshError
from tiermesh.frames import EMPTY, Frame, Kind, Packed, pack

_LANES_ASKED = 64
_LANES_STEERED: Final = 64
"""A source with more lanes than this has few requests on each: there is nothing to be seen of one of them."""
DROP_AGAIN_S: Final = 1.0


class Sources:
    """All sources here, by key: a run and a stage."""

    def __init__(self, post: Post, generations: Generations) -> None:
        self.by_key: dict[str, SourceState] = {}
        self._post = post
        self._told_at: dict[str, float] = {}
        self._generations = generations

    def run(self, now: float) -> None:
        """Accept what is due, and see to what is due of the accepted ones."""
        generation = self._generations.running
        for source in self.by_key.values():
            if generation is not None and self._may_accept(generation, source):
                self._post.do(*source.accept(now))
            self._refuse(source)
            self._tell_throttled(generation, source, now)
            steered = source.steered
            if steered is not None and steered.steering is not None:
                steered.steering.tick(now)
            blocked = generation is not None and _is_blocked(generation, source, now)
            self._drop_duplicates(source, now)
            instructions, failed, unclear = source.due(now, blocked=blocked)
            self._post.do(*instructions)
            for request in unclear:
                self._ask(source, request, now)
            for request in failed:
                self.fail(source, source.ledger.requests[request], now)

    def offered(self, key: str, request: FeedRequest) -> None:
        """Somebody outside offers a source a request."""
        source = self.by_key.get(key)
        why = (
            source.offer(request)
            if source is not None
            else "there is no such source on this device"
        )
        if why is not None and request.offer is not None:
            self._post.do(RejectOffers(key, (request.offer,), why))

    def _refuse(self, source: SourceState) -> None:
        offers = source.refuse()
        if offers:
            self._post.do(RejectOffers(source.key, offers, "it has been stopped"))

    def _tell_throttled(
        self, generation: Generation | None, source: SourceState, now: float
    ) -> None:
        told = source.throttled(now) if generation is not None else None
        if generation is not None and told is not None:
            text = f"{generation.assignment.workflow}, {source.stage}: {told}"
            self._post.notice("source-throttled", text, now)

    def _ask(self, source: SourceState, request: Request, now: float) -> None:
        """Ask the devices where a sink was before: a request must not end here and there."""
        for former in source.ledger.unclear(request):
            self._post.learn(former.device, source.ledger.addresses.get(former.device, ""))
            name = self._generations.name(former.device)
            request.why = f"{name}, where {former.sink} was, does not say whether it ended there"
            ask = Frame(
                Kind.ASK,
                self._generations.current,
                0,
                request.id,
                request.attempt,
                source.stage,
                former.sink,
                (self._post.device,),
            )
            self._post.send_to(former.device, ask, now)

    def switched(self, generation: Generation, now: float) -> None:
        """A generation is current: tell the ledgers where their sinks are, and what is asked."""
        for source in self.by_key.values():
            locate_sinks(source.ledger, generation, source.stage)
            count_for(source.ledger, generation, now)

    def _drop_duplicates(self, source: SourceState, now: float) -> None:
        """Tell the devices in reach what does not count there; it is told again until they have said that they know."""
        ledger = source.ledger
        if not ledger.duplicates or now < self._told_at.get(source.key, -inf) + DROP_AGAIN_S:
            return
        self._told_at[source.key] = now
        for device in sorted({duplicate.device for duplicate in ledger.duplicates.values()}):
            self._post.learn(device, ledger.addresses.get(device, ""))
            self._post.wake(device)
        for duplicate in list(ledger.duplicates.values()):
            link = self._post.links.senders.get(duplicate.device)
            if duplicate.device == self._post.device or (
                link is not None and link.link is PeerLink.UP
            ):
                self._post.send_to(duplicate.device, self._drop(source, duplicate), now)

    def _drop(self, source: SourceState, duplicate: PossibleDuplicate) -> Frame:
        mine = (self._post.device,)
        number = self._generations.current
        return Frame(Kind.DROP, number, 0, duplicate.request, 0, source.stage, duplicate.sink, mine)

    def _may_accept(self, generation: Generation, source: SourceState) -> bool:
        """Whether the first stages take more: backpressure ends here, where it delays acceptance."""
        stage = generation.assignment.stages.get(source.stage)
        lanes = range(min(len(generation.assignment.lanes), _LANES_ASKED))
        return stage is not None and any(
            all(generation.has_room(lane, output, self._post) for output in stage.outputs)
            for lane in lanes
        )

    def inject(self, key: str, request: Request, payload: Packed, now: float) -> None:
        """Send an accepted request on its way, under the generation that is current now."""
        source, generation = self.by_key[key], self._generations.running
        if generation is None or request.id not in source.ledger.requests:
            return
        if source.ledger.unclear(request):
            # A sink has moved while the file was read.
            source.ledger.postponed(request, now)
            return
        links = self._post.links
        lost = source.ledger.lost_devices(now) | {d for d in links.senders if links.is_lost(d)}
        # A guess at a request that meets others goes where they go, too.
        attempt = 1 if request.guessed and source.ledger.meets_others else request.attempt
        lane = self._lane(source, request, generation, attempt, lost=lost, now=now)
        source.ledger.injected(request, generation.router.devices_of(lane), now)
        frame = self._frame(source, request, generation, lane)
        for output in generation.assignment.stages[source.stage].outputs:
            self._post.send(replace(frame, stage=output, payload=payload), now)

    def unreadable(self, key: str, request: Request, why: str, now: float) -> None:
        """The payload of an accepted request cannot be read; one that has ended meanwhile may be gone from the disk."""
        source = self.by_key.get(key)
        if source is not None and request.id in source.ledger.requests:
            request.why = why
            self.fail(source, request, now, why)

    @staticmethod
    def _lane(
        source: SourceState,
        request: Request,
        generation: Generation,
        attempt: int,
        *,
        lost: Collection[str],
        now: float,
    ) -> int:
        """The lane that a request takes, and note that it does."""
        router, steered = generation.router, source.steered
        if steered is None or steered.generation != generation.number:
            steered = source.steered = steer(generation, source)
        steering = steered.steering
        if steering is None:
            return router.lane_of(request.id, source.replica, source.stage, attempt, lost)
        lane = router.lane_of(
            request.id, source.replica, source.stage, attempt, lost, shares=steering.shares
        )
        at = steered.lane(lane)
        if attempt == 1 and not lost:
            at = steering.allowed(at)
        steering.sent(request.id, at, now)
        return steered.lanes[at]

    def fail(self, source: SourceState, request: Request, now: float, why: str = "") -> None:
        """End a request in an error at the sinks that have not confirmed it yet."""
        generation = self._generations.running
        source.ledger.failed(request, now)
        if generation is None:
            return
        if not why:
            why = "not done by its deadline" + (f": {request.why}" if request.why else "")
        lane = generation.router.lane_of(request.id, source.replica, source.stage, 1, ())
        error = replace(
            self._frame(source, request, generation, lane),
            kind=Kind.ERROR,
            payload=pack({"name": request.item}) if request.item else EMPTY,
            error=f"{source.stage}: {why}",
        )
        for sink in sorted(request.unconfirmed):
            self._post.send(replace(error, stage=sink), now)

    def _frame(
        self, source: SourceState, request: Request, generation: Generation, lane: int
    ) -> Frame:
        return Frame(
            Kind.DATA,
            generation.number,
            lane,
            request.id,
            request.attempt,
            source.stage,
            "",
            (self._post.device,),
            request.accepted_at,
            request.deadline,
            series=f"{source.key}@{self._post.device}",
            index=request.index,
            settled=source.ledger.settled,
            done=source.ledger.done(request),
        )

    def hear(self, frame: Frame, by: str, now: float) -> None:
        """Device `by` speaks: a sink confirms a request, or a device has lost one, or all that it had."""
        for source in self.by_key.values():
            ledger = source.ledger
            if frame.kind is Kind.CONFIRM:
                self._confirm(source, frame, by, now)
            elif frame.kind is Kind.DROPPED:
                duplicate = ledger.dropped(frame.request_id, frame.stage, frame.origin, now)
                if duplicate is not None:
                    self._post.do(Settled(source.key, duplicate))
            elif frame.kind is Kind.CLEAR:
                ledger.cleared(frame.request_id, frame.stage, frame.origin, now)
            elif frame.request_id:
                ledger.lost(frame.request_id, frame.attempt, frame.origin, frame.error, now)
            else:
                epoch, gone = _told(frame)
                ledger.device_lost(frame.origin, epoch, gone=gone, now=now)

    def _confirm(self, source: SourceState, confirm: Frame, by: str, now: float) -> None:
        ledger, how = source.ledger, how_it_ended(confirm)
        request = ledger.requests.get(confirm.request_id)
        if request is not None and request.offer is not None:
            returned = result_of(confirm)
            if returned is not None:
                request.results = ((confirm.origin, returned), *request.results)
        ended = ledger.confirmed(
            confirm.request_id, confirm.origin, now, confirm.attempt, by, ended=how
        )
        if ended is None:
            return
        if ended.ended is not RequestOutcome.ERROR:
            ledger.lanes.note(confirm.generation, confirm.lane)
        if source.steered is not None and source.steered.steering is not None:
            source.steered.steering.ended(ended.id, now)
        self._post.do(Forget(source.key, ended))


def count_for(ledger: RequestLedger, generation: Generation, now: float) -> None:
    """Have a ledger count against the SLO, and by the lanes, of the generation that is current."""
    ledger.attainment.ask({**generation.assignment.latency_s}, now)
    ledger.lanes.begin(generation.number)


def locate_sinks(ledger: RequestLedger, generation: Generation, stage: str) -> None:
    """Tell a ledger where the sinks of its source are in a generation."""
    assignment = generation.assignment
    ledger.retries.are_bounded = "retry-budget" in assignment.rings
    ledger.meets_others = generation.graph.meets_others(stage)
    ledger.in_order = generation.graph.is_in_order(stage)
    ledger.sinks_at(
        generation.router.sink_devices(stage),
        lost=assignment.lost,
        addresses={device: peer.address for device, peer in assignment.peers.items()},
    )


def steer(generation: Generation, source: SourceState) -> Steered:
    """What steers a source's requests under a generation.

    Nothing does where requests meet those of another source, which must take the same lane; nor where an aggregate
    makes all lanes as slow as the slowest, so that nobody could tell which one that is.
    """
    assignment, router = generation.assignment, generation.router
    lanes = tuple(router.own_lanes(source.replica, source.stage))
    most = assignment.shares_most
    if (
        "shares" not in assignment.rings
        or len(most) != len(router.lanes)
        or not 1 < len(lanes) <= _LANES_STEERED
        or source.ledger.meets_others
        or source.ledger.in_order
    ):
        return Steered(generation.number, lanes, None)
    total = sum(router.lanes[i].share for i in lanes)
    rules = [
        LaneRule(
            router.lanes[i].share / total,
            max(most[i], router.lanes[i].share) / total,
            router.lanes[i].accuracy,
            router.ends(i),
        )
        for i in lanes
    ]
    steering = Steering(
        rules,
        slo_s=max(assignment.latency_s.values(), default=None),
        planned_rps=source.planned_rps,
        at_least=assignment.accuracy_at_least,
        accuracy="accuracy" in assignment.rings,
    )
    return Steered(generation.number, lanes, steering)


def _is_blocked(generation: Generation, source: SourceState, now: float) -> bool:
    """Whether something is due, and each lane leads through a device that somebody has lost."""
    if source.ledger.next_due > now:
        return False
    lost = source.ledger.lost_devices(now)
    return bool(lost) and not generation.router.has_way(source.replica, source.stage, lost)


def _told(frame: Frame) -> tuple[int, bool]:
    """The epoch of a device that lost what it had, and whether the device is out of reach."""
    try:
        told = frame.payload.unpack()
    except TiermeshError:
        return 0, True
    epoch = told.get("epoch")
    return (epoch if isinstance(epoch, int) else 0), bool(told.get("gone"))
