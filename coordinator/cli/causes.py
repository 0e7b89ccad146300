"""`coordinator explain --now`: why running workflows miss their SLO, or may come to, by measurement."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from coordinator.cli.mesh import run_reading
from coordinator.cli.output import CommandOutput
from coordinator.cli.text import clean

if TYPE_CHECKING:
    from coordinator.api.documents import Causes


def explain_now(args: argparse.Namespace, output: CommandOutput) -> int:
    """Measure for a while, and say what is otherwise than planned; returns the exit code."""
    workflow = str(args.plan) if args.plan is not None else ""
    found = run_reading(
        args, lambda client: client.explain_running(workflow, interval_s=args.interval)
    )
    for one in found:
        _show(one, output)
    if not found:
        output.console.print("nothing runs")
    output.document({"workflows": found})
    return 0


def _show(one: Causes, output: CommandOutput) -> None:
    say = output.console.print
    say(f"[bold]{clean(one.workflow)}[/], generation {one.generation}")
    for cause in one.causes:
        say(f"  {cause['kind']}: {clean(cause['text'])}")
    if not one.causes:
        say("  nothing is significantly otherwise than planned")
    for name, ms in one.expected_ms.items():
        predicted = one.predicted_ms.get(name, 0.0)
        say(f"  latency {name} expected now {ms:.0f} ms (predicted {predicted:.0f})")
