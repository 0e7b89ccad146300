"""Plans: made, explained, simulated and compared."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from coordinator.api.documents import decode_document, encode_document
from coordinator.api.handlers.base import Handlers, check_count, reported
from coordinator.planning.options import Options, PlanObjective, Strategy
from coordinator.planning.search_progress import SearchBounds, SearchObserver
from tiermesh import limits
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem
from tiermesh.errors import InvalidDocument, Unsupported
from tiermesh.v1 import coordinator_pb2 as pb

if TYPE_CHECKING:
    from coordinator.fleet import Fleet

T = TypeVar("T")
REQUESTS: Final = 4_000
"""Requests of a simulation that does not say how many; more, the burstier they come."""
MOST_REQUESTS: Final = 1_000_000


class PlanHandlers(Handlers):
    """What to run where. All of it is a pure function of a problem, computed in a thread."""

    async def get_problem(self, request: pb.GetProblemRequest) -> pb.GetProblemReply:
        """The planning problem of a workflow on the ready devices."""
        return pb.GetProblemReply(problem=encode_document(await self._problem(request)))

    async def _problem(self, request: pb.GetProblemRequest) -> Problem:
        from coordinator.planning.snapshot import without_devices

        check_count(request.without_devices, limits.API_NAMES, "devices")
        without = set(request.without_devices)
        return await self.mesh.problem(
            self.workflow_of_digest(request.workflow),
            source_bytes=dict(request.source_bytes) or self.source_bytes,
            adjust=lambda problem: without_devices(problem, without) if without else problem,
            functions=request.functions,
        )

    async def make_plan(self, request: pb.MakePlanRequest) -> AsyncGenerator[pb.MakePlanEvent]:
        """Look for the best plan: better ones and bounds as they are found, then the plan with its problem.

        The plan for a workflow is kept in the journal, that for a problem file is not.
        """
        problem = await self._problem_to_solve(request)
        options = planning_options(request.options)

        async def work(tell: Callable[[SearchBounds], None]) -> Plan:
            watched = replace(options, watch=SearchObserver(tell))
            if request.problem:
                return await self._solved(problem, watched)
            return await self.mesh.solve(problem, watched)

        known = SearchBounds()
        async with aclosing(reported(work)) as steps:
            async for news in steps:
                if isinstance(news, Plan):
                    plan = pb.MadePlan(plan=encode_document(news), problem=encode_document(problem))
                    yield pb.MakePlanEvent(plan=plan)
                else:
                    known = known.after(news)
                    search = pb.SearchProgress(objective=known.objective, bound=known.bound)
                    yield pb.MakePlanEvent(search=search)

    async def _problem_to_solve(self, request: pb.MakePlanRequest) -> Problem:
        if request.problem:
            return decode_document(request.problem, Problem)
        if len(request.problems) != 1:
            raise Unsupported(
                f"{len(request.problems)} workflows cannot be planned together",
                why="each workflow has a plan of its own as yet",
                fix="Name one workflow in a call",
            )
        return await self._problem(request.problems[0])

    async def _solved(self, problem: Problem, options: Options) -> Plan:
        from coordinator.planning import solve

        return await self._in_thread(
            lambda watch: solve(problem, replace(options, watch=watch)), options.watch
        )

    async def _in_thread(self, work: Callable[[SearchObserver], T], watch: SearchObserver) -> T:
        """Compute in a thread, which ends soon after nobody waits for it any more."""
        gone = threading.Event()
        try:
            return await asyncio.to_thread(work, watch.until(gone.is_set))
        finally:
            gone.set()

    async def explain_plan(self, request: pb.ExplainPlanRequest) -> pb.ExplainPlanReply:
        """Why a plan is as it is; without its problem, if that is still the mesh's."""
        from coordinator.planning.explain import explain

        plan = decode_document(request.plan, Plan)
        if request.problem:
            problem = decode_document(request.problem, Problem)
        else:
            workflow = self.mesh.workflow_of(plan)
            problem = await self.mesh.problem(workflow, source_bytes=self.source_bytes)
        found = await self._in_thread(lambda watch: explain(problem, plan, watch), SearchObserver())
        return pb.ExplainPlanReply(explanation=encode_document(found))

    async def simulate_plan(self, request: pb.SimulatePlanRequest) -> pb.SimulatePlanReply:
        """Play a plan through from its profiles."""
        from coordinator.planning.margin import scaled
        from coordinator.planning.requests import Requests
        from coordinator.planning.simulate import SimulatedLoad, simulate

        plan = decode_document(request.plan, Plan)
        problem = decode_document(request.problem, Problem)
        requests = request.requests or REQUESTS * Requests.of(problem).unevenness
        _check_simulation(requests, request)
        load = SimulatedLoad(
            requests=requests,
            scale=request.scale or 1.0,
            arrivals=_arrivals(request.arrivals),
            seed=request.seed,
            fail=request.fail or None,
            times=tuple(request.times),
        )
        slower = request.slower
        played = scaled(problem, lambda _profile, _size: 1 + slower) if slower else problem
        outcome = await asyncio.to_thread(simulate, played, plan, load)
        return pb.SimulatePlanReply(outcome=encode_document(outcome))

    async def diff_plans(self, request: pb.DiffPlansRequest) -> pb.DiffPlansReply:
        """What a plan would change: against another one, or against the plan that runs."""
        from coordinator.planning.diff import difference

        after = decode_document(request.after, Plan)
        before = decode_document(request.before, Plan) if request.before else None
        found = difference(
            before or running_plan(self.mesh.fleet, after.workflow),
            after,
            churn_per_start=request.price_per_start,
        )
        return pb.DiffPlansReply(difference=encode_document(found))


def running_plan(fleet: Fleet, workflow: str) -> Plan:
    """The plan that runs.

    Raises:
        InvalidDocument: none does.
    """
    running = fleet.running.get(workflow)
    record = fleet.plans.get(running.plan) if running is not None else None
    if record is None:
        raise InvalidDocument(
            f"no plan of `{workflow}` runs", fix="Name the plan to compare with: diff PLAN OTHER"
        )
    return record.plan


def planning_options(said: pb.PlanningOptions) -> Options:
    """The options of a call; what it does not say is as usual.

    Raises:
        InvalidDocument: an objective or a strategy of no such name.
    """
    usual = Options()
    try:
        objective = PlanObjective(said.objective or usual.objective)
        strategy = Strategy(said.strategy or usual.strategy)
    except ValueError as error:
        raise InvalidDocument("the planning options are wrong", why=str(error)) from None
    return Options(
        exclusive=said.exclusive,
        single_variant=said.single_variant,
        spares=said.spares,
        objective=objective,
        strategy=strategy,
        time_limit_s=said.time_limit_s or usual.time_limit_s,
        gap=said.gap or usual.gap,
        confidence=said.confidence if said.HasField("confidence") else None,
        margin=not said.no_margin,
        frontier=said.frontier,
    )


def _arrivals(word: str):  # noqa: ANN202 - one of two literals
    if word == "poisson":
        return "poisson"
    if word == "constant":
        return "constant"
    if word:
        raise InvalidDocument(f"arrivals `{word}`", fix="Allowed: poisson, constant")
    return None


def _check_simulation(requests: int, request: pb.SimulatePlanRequest) -> None:
    check_count(request.times, limits.TRACE_TIMES, "recorded arrivals")
    if request.scale < 0 or not 1 <= requests <= MOST_REQUESTS:
        raise InvalidDocument(
            "there is nothing to simulate",
            why=f"the load must be above 0 and the requests 1 to {MOST_REQUESTS}",
        )
