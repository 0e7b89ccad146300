"""``python -m tests.integration.coordinator.killed N run ...``: a coordinator that dies in the middle of a rollout.

It kills itself with SIGKILL as soon as the N-th event of the first rollout that is asked of it is on disk.
"""

from __future__ import annotations

import os
import signal
import sys

from coordinator.cli import main
from coordinator.fleet.events import RolloutStarted
from coordinator.journal.store import Journal


def die_after(number: int) -> None:
    """Have this process die once that many events of a rollout are in the journal."""
    append = Journal.append
    seen = 0

    def appended(journal: Journal, happened) -> None:
        nonlocal seen
        for event in happened:
            append(journal, [event])
            asked_for = isinstance(event, RolloutStarted) and event.purpose == "apply"
            if seen or asked_for:
                seen += event.kind.startswith(("rollout-", "artifacts-"))
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    Journal.append = appended


if __name__ == "__main__":
    die_after(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
