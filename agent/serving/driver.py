"""What carries out a flow's instructions, as the threads around it see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from agent.serving.flow import Flow


class FlowDriver(Protocol):
    """Drives the flows of a worker in its event loop; these may be called from any thread."""

    def now(self) -> float:
        """The worker's clock, in Unix seconds."""
        ...

    def event(self, flow: Flow, event: Callable[[Flow, float], None]) -> None:
        """Give a flow an event, in the event loop, and carry out what it then says."""
        ...

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something in the event loop, later."""
        ...

    def notice(self, kind: str, text: str) -> None:
        """Tell the agent something that people should see."""
        ...
