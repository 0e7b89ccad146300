"""Looks every few seconds whether the settings of a worker's batches still fit, beside serving."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from agent.serving.flow import Flow
from agent.serving.routing.generation import ReplicaQueue
from agent.serving.tuning.tuner import TuningWindow
from tiermesh.batching.tuning import Decision, Tuned

EVERY_S: Final = 5.0


class RetunedHost(Protocol):
    """What serves: the host."""

    @property
    def flows(self) -> Mapping[str, Flow]:
        """All flows, by workflow."""
        ...

    def now(self) -> float:
        """The worker's clock."""
        ...

    def changed(self) -> None:
        """A flow is to be looked at."""
        ...

    def notice(self, kind: str, text: str) -> None:
        """Tell the agent something that people should see."""
        ...


class Retuning:
    """Asks the tuner of every replica that new requests take, and uses what it says.

    `notice` is called with the kind ``retuned`` and, in words, what has changed and why.
    """

    def __init__(self, notice: Callable[[str, str], None]) -> None:
        self._notice = notice
        self._at: float | None = None
        self._busy: dict[ReplicaQueue, float] = {}

    def questions(
        self, flows: Mapping[str, Flow], now: float
    ) -> Iterator[tuple[ReplicaQueue, TuningWindow]]:
        """What to decide now, by replica. The device's other replicas are counted as they were since the last call."""
        queues = [queue for flow in flows.values() for queue in _current(flow)]
        since, before = self._at, self._busy
        self._at, self._busy = now, {queue: queue.busy_seconds for queue in queues}
        if since is None or now <= since:
            return
        busy = {queue: queue.busy_seconds - before.get(queue, 0.0) for queue in queues}
        total = sum(busy.values())
        for queue in queues:
            if queue.tuner is None:
                continue
            others = (total - busy[queue]) / (now - since)
            question = queue.tuner.question(queue.batcher.setting, now, others)
            if question is not None:
                yield queue, question

    def follow(self, queue: ReplicaQueue, decision: Decision, now: float) -> bool:
        """Use a decision, if it is time to; whether something has changed."""
        current = queue.batcher.setting
        setting = queue.tuner.follow(decision, current, now) if queue.tuner is not None else None
        if setting is None:
            return False
        queue.batcher.use(setting)
        what = f"{_text(current)} -> {_text(setting)}: {decision.reason.value}"
        self._notice("retuned", f"{queue.workflow}, {queue.spec.id}: {what}")
        return True


async def keep_tuned(serving: RetunedHost, every_s: float = EVERY_S) -> None:
    """Look every few seconds, until cancelled. Answers are worked out in a thread."""
    retuning = Retuning(serving.notice)
    while True:
        await asyncio.sleep(every_s)
        for queue, question in list(retuning.questions(serving.flows, serving.now())):
            decision = await asyncio.to_thread(question.answer)
            if retuning.follow(queue, decision, serving.now()):
                serving.changed()


def _current(flow: Flow) -> list[ReplicaQueue]:
    generation = flow.generations.get(flow.current)
    return [q for q in generation.queues.values() if q.computes] if generation else []


def _text(setting: Tuned) -> str:
    return f"batches of {setting.batch_size}, {1000 * setting.timeout_s:g} ms"
