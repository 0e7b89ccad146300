"""Following a search from outside: what it knows so far, and a way to end it. The answer never depends on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from tiermesh.errors import TiermeshError


class Stopped(TiermeshError):
    """The search was ended by who had asked for it; there is no plan."""

    kind = "stopped"


@dataclass(frozen=True, slots=True)
class SearchBounds:
    """What a search knows: the objective of the best plan so far, and the bound that no plan can beat.

    Both as they are minimised (throughput and accuracy are negative); None where not known yet.
    """

    objective: float | None = None
    bound: float | None = None

    @property
    def gap(self) -> float | None:
        """The gap relative to the objective; None while either is not known."""
        if self.objective is None or self.bound is None:
            return None
        return max(self.objective - self.bound, 0.0) / max(abs(self.objective), 1e-12)

    def after(self, news: SearchBounds) -> SearchBounds:
        """With what has been found out since: plans and bounds only get better."""
        objectives = [x for x in (self.objective, news.objective) if x is not None]
        bounds = [x for x in (self.bound, news.bound) if x is not None]
        return SearchBounds(min(objectives, default=None), max(bounds, default=None))


@dataclass(frozen=True, slots=True)
class SearchObserver:
    """`tell` is called with news, perhaps in quick succession; once `stopped` says so, the search raises `Stopped`.

    Both are called in the thread that solves. A search of many programs watches most of them in part: what a program
    finds need not be a plan (`plans`), and what bounds it need not bound the search (`bounds`).
    """

    tell: Callable[[SearchBounds], None] | None = None
    stopped: Callable[[], bool] | None = None
    plans: bool = True
    bounds: bool = True

    def know(self, objective: float | None = None, bound: float | None = None) -> None:
        """Tell what has been found out, if it counts here."""
        news = SearchBounds(objective if self.plans else None, bound if self.bounds else None)
        if self.tell is not None and news != SearchBounds():
            self.tell(news)

    def check(self) -> None:
        """Go on.

        Raises:
            Stopped: nobody waits for the answer.
        """
        if self.stopped is not None and self.stopped():
            raise Stopped("the search for a plan was stopped")

    def until(self, stopped: Callable[[], bool]) -> SearchObserver:
        """One that ends the search for another reason as well."""
        before = self.stopped
        if before is None:
            return replace(self, stopped=stopped)
        return replace(self, stopped=lambda: stopped() or before())

    def for_plans(self) -> SearchObserver:
        """Of a search that finds plans, and whose bounds mean nothing outside."""
        return replace(self, bounds=False)

    def for_bounds(self) -> SearchObserver:
        """Of a search for a bound, whose answers need not be plans."""
        return replace(self, plans=False)

    def for_nothing(self) -> SearchObserver:
        """Of a search that can be stopped, and has nothing to tell."""
        return replace(self, plans=False, bounds=False)


UNWATCHED: Final = SearchObserver()
