"""Questions to the planner, in a thread of their own: the best plan, what other accuracies cost, and why."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from coordinator.planning.options import Options, Strategy
from coordinator.planning.search_progress import SearchBounds, SearchObserver
from coordinator.tui import messages as m
from coordinator.tui.model.candidate import (
    AccuracyAlternative,
    Asking,
    PlanAnswer,
    Search,
    SearchStep,
)
from coordinator.tui.model.slo_fields import changed_text
from tiermesh.errors import Infeasible, TiermeshError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordinator.fleet import Fleet
    from coordinator.planning.explain import Explanation
    from coordinator.tui.session import Post
    from tiermesh.documents.plan import Plan
    from tiermesh.documents.problem import Problem
    from tiermesh.v1 import coordinator_pb2 as pb

GAP: Final = 1e-4
TIME_LIMIT_S: Final = 20.0
"""When a search for the best plan may end."""
TELL_S: Final = 0.2
"""How often it is told how far a search is."""
CHOICES: Final = 7
CHOICE_S: Final = 4.0
"""How many accuracies a frontier has, and how long each is looked for."""


class Problems(Protocol):
    """What the planner asks a coordinator: `CoordinatorClient` is one."""

    async def add_workflow(self, text: str, folder: str) -> pb.AddWorkflowReply:
        """Make a workflow known; its digest is in the reply."""
        ...

    async def problem(self, workflow: str, *, without_devices: Iterable[str] = ()) -> Problem:
        """The planning problem of a workflow, by its digest."""
        ...

    async def explain_plan(self, plan: Plan, problem: Problem | None = None) -> Explanation:
        """Why a plan is as it is; without its problem, if that is still the mesh's."""
        ...


class Solving:
    """The planner of one mesh, as the app asks it. `fleet` is the state as it is now.

    Problems come from the coordinator. They are solved in this process: a plan is a pure function of its problem, and a
    search must not take the time of whoever keeps workflows served. Those that were solved are kept to be explained.
    """

    def __init__(self, client: Problems, post: Post, fleet: Callable[[], Fleet]) -> None:
        self._client, self._post, self._fleet = client, post, fleet
        self._problems: dict[str, Problem] = {}
        self._newest: PlanAnswer | None = None
        self._searching = asyncio.Lock()

    def _tell(self, candidate: PlanAnswer) -> None:
        self._newest = candidate
        self._post(m.CandidateChanged(candidate))

    async def solve(self, asking: Asking) -> None:
        """Look for the best plan, and tell what is known as it comes. Cancelled, the solver stops as well."""
        self._tell(PlanAnswer(asking=asking))
        async with self._searching:
            await self._search(PlanAnswer(asking=asking))

    async def _search(self, candidate: PlanAnswer) -> None:
        closing = Closing()
        try:
            problem = await self._problem(candidate.asking)
            if not _asks_more_than_rates(problem):
                options = Options(strategy=Strategy.GREEDY)
                candidate = await self._solved(candidate, problem, options, closing)
            options = Options(gap=GAP, time_limit_s=TIME_LIMIT_S)
            candidate = await self._solved(candidate, problem, options, closing)
            found = candidate.plan is not None
            self._tell(replace(candidate, search=Search.FOUND if found else Search.FAILED))
        except TiermeshError as error:
            search = Search.INFEASIBLE if isinstance(error, Infeasible) else Search.FAILED
            why = ". ".join(p.rstrip(".") for p in (error.what, error.why) if p)
            self._tell(replace(candidate, search=search, plan=None, why=why, fix=error.fix))

    async def _solved(
        self, candidate: PlanAnswer, problem: Problem, options: Options, closing: Closing
    ) -> PlanAnswer:
        """Solve in a thread; tell meanwhile how far it is."""
        with _waited_for() as stopped:
            options = replace(options, watch=SearchObserver(closing.hear, stopped))
            solving = asyncio.create_task(asyncio.to_thread(_solve, problem, options))
            try:
                while not solving.done():
                    await asyncio.wait([solving], timeout=TELL_S)
                    candidate = closing.told(candidate)
                    self._tell(candidate)
            finally:
                solving.cancel()
        plan = solving.result()
        if plan is None:
            return candidate
        candidate = replace(closing.ended(candidate, plan), plan=plan)
        self._tell(candidate)
        return candidate

    async def frontier(self, asking: Asking) -> None:
        """What other accuracies cost, and how long requests take with them, once the search for the plan is over."""
        async with self._searching:
            candidate = self._newest
        if candidate is None or candidate.number != asking.number or candidate.plan is None:
            return
        try:
            problem = await self._problem(asking)
        except TiermeshError:
            return
        choices: list[AccuracyAlternative] = []
        with _waited_for() as stopped:
            watch = SearchObserver(stopped=lambda: stopped() or self._is_old(asking))
            for accuracy in _accuracies(problem):
                choices.append(await asyncio.to_thread(_choice, problem, accuracy, watch))
                if self._is_old(asking):
                    return
                candidate = replace(candidate, frontier=tuple(choices))
                self._tell(candidate)

    def _is_old(self, asking: Asking) -> bool:
        return self._newest is None or self._newest.number != asking.number

    async def explain(self, plan: Plan) -> None:
        """Say why a plan is as it is; of a plan made elsewhere, if its problem is still that of the mesh."""
        try:
            known = self._problems.get(plan.made_for.problem)
            explanation = await self._client.explain_plan(plan, known)
            self._post(m.Explained(plan.digest, explanation))
        except TiermeshError as error:
            self._post(m.ActionRefused("explain", error))

    async def _problem(self, asking: Asking) -> Problem:
        workflow = await self._workflow(asking)
        without = asking.devices | {
            d.name for d in self._fleet().ready if d.description.tier in asking.tiers
        }
        problem = await self._client.problem(workflow, without_devices=sorted(without))
        self._problems[problem.digest] = problem
        return problem

    async def _workflow(self, asking: Asking) -> str:
        """The digest of the workflow, with the changes that are asked for."""
        fleet = self._fleet()
        digest = workflow_digest(fleet, asking.workflow)
        source = fleet.workflows.get(digest or "")
        if source is None or digest is None:
            raise TiermeshError(
                f"the file of the workflow `{asking.workflow}` is not known here",
                fix="Plan it once: coordinator plan WORKFLOW.yaml",
            )
        text = changed_text(source.text, asking.changes)
        if text == source.text:
            return digest
        return (await self._client.add_workflow(text, source.folder)).digest


def workflow_digest(fleet: Fleet, workflow: str) -> str | None:
    """The version of a workflow that runs, else the one planned last."""
    running = fleet.running.get(workflow)
    if running is not None:
        return running.workflow_digest
    plans = [p for p in fleet.plans.values() if p.plan.workflow == workflow]
    newest = max(plans, key=lambda p: p.made_at, default=None)
    if newest is not None and newest.plan.made_for.workflow in fleet.workflows:
        return newest.plan.made_for.workflow
    return next((d for d, s in reversed(fleet.workflows.items()) if s.name == workflow), None)


class Closing:
    """How the gap closes: heard in the solver's thread, told from the app's."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._standing = SearchBounds()
        self._steps: tuple[SearchStep, ...] = ()

    def hear(self, news: SearchBounds) -> None:
        """Take what the solver says."""
        self._standing = known = self._standing.after(news)
        if known.objective is not None:
            self._add(SearchStep(self._clock() - self._begun, known.objective, known.gap))

    def _add(self, step: SearchStep) -> None:
        if not self._steps or step.follows(self._steps[-1]):
            self._steps = (*self._steps, step)

    def told(self, candidate: PlanAnswer) -> PlanAnswer:
        """The candidate, with what is known now."""
        return replace(
            candidate,
            seconds=self._clock() - self._begun,
            standing=self._standing,
            steps=self._steps,
        )

    def ended(self, candidate: PlanAnswer, plan: Plan) -> PlanAnswer:
        """The candidate, with the last word of a search: its plan's own figures."""
        self._add(
            SearchStep(self._clock() - self._begun, plan.cost.total_per_hour, plan.solver.gap)
        )
        return self.told(candidate)


@contextlib.contextmanager
def _waited_for() -> Generator[Callable[[], bool]]:
    """Says to a thread that solves whether nobody waits for it any more."""
    gone = threading.Event()
    try:
        yield gone.is_set
    finally:
        gone.set()


def _asks_more_than_rates(problem: Problem) -> bool:
    """Whether something is asked that quick plans do not look at, so that they may not be plans at all."""
    return bool(problem.asks.latency_s) or problem.asks.any_device_lost is not None


def _solve(problem: Problem, options: Options) -> Plan | None:
    """A plan; None where a quick search, which proves nothing, finds none."""
    from coordinator.planning import solve

    try:
        return solve(problem, options)
    except Infeasible:
        if options.strategy is Strategy.GREEDY:
            return None
        raise


def _accuracies(problem: Problem) -> list[float]:
    """Accuracies from the least to the most that any choice of variants has."""
    table = problem.accuracy.table if problem.accuracy is not None else []
    if not table:
        return []
    low, high = min(c.accuracy for c in table), max(c.accuracy for c in table)
    return [low + (high - low) * i / (CHOICES - 1) for i in range(CHOICES)]


def _choice(problem: Problem, accuracy: float, watch: SearchObserver) -> AccuracyAlternative:
    import msgspec

    from coordinator.planning import solve

    asks = msgspec.structs.replace(
        problem.asks, accuracy_at_least=accuracy, cost_per_hour_at_most=None
    )
    try:
        plan = solve(
            msgspec.structs.replace(problem, asks=asks),
            Options(gap=0.01, time_limit_s=CHOICE_S, watch=watch, intervals=False),
        )
    except TiermeshError:
        return AccuracyAlternative(accuracy, None, None)
    return AccuracyAlternative(
        accuracy, plan.cost.total_per_hour, plan.predicted.latency_ms.get("p95")
    )
