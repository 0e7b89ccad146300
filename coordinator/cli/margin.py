"""Margins for people: the options that ask for one, what it allows for, and what it costs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tiermesh.units import Share

if TYPE_CHECKING:
    from tiermesh.documents.plan import ConfidencePrice, Margin, Plan, Predicted


def percent(text: str) -> float:
    """A share given in percent on the command line."""
    try:
        return round(float(Share.parse(text)), 9)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_margin_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of planning with margin."""
    parser.add_argument(
        "--confidence",
        type=percent,
        metavar="P",
        help="how sure utilization and latency are to hold although device times vary, such as 99%% "
        "(default: 95%% for a workflow; none for a problem file that does not ask)",
    )
    parser.add_argument(
        "--no-margin", action="store_true", help="plan with device times as they were profiled"
    )
    parser.add_argument(
        "--frontier",
        action="store_true",
        help="say what other confidences cost, for problem files too",
    )


def latency_words(predicted: Predicted) -> str:
    """``p50 343 ms (299 to 471), p75 417 ms``: with 90 % intervals where they are known."""
    return ", ".join(
        f"{name} {ms:.0f} ms{_interval(predicted, name)}"
        for name, ms in predicted.latency_ms.items()
    )


def _interval(predicted: Predicted, name: str) -> str:
    told = interval_words(predicted, name)
    return f" ({told})" if told else ""


def interval_words(predicted: Predicted, percentile: str) -> str:
    """``299 to 471``, in milliseconds; empty where it is not known."""
    known = predicted.latency_interval_ms.get(percentile)  # pyright: ignore[reportArgumentType]
    return f"{known[0]:.0f} to {known[1]:.0f}" if known is not None else ""


def margin_lines(plan: Plan) -> Iterator[str]:
    """What the plan's margin is, and what it costs."""
    margin = plan.margin
    if margin is None:
        return
    line = f"margin: {_percent(margin.confidence)} confidence, {_slower(margin)}"
    if margin.price_per_hour is not None:
        line += f"; costs {_change(margin.price_per_hour, plan.cost.total_per_hour - margin.price_per_hour)}"
    yield line
    others = [p for p in margin.frontier if p.confidence not in (None, margin.confidence)]
    if others:
        cost = plan.cost.total_per_hour
        told = "; ".join(_instead(price, margin.confidence, cost) for price in others)
        yield f"        {told}"


def _slower(margin: Margin) -> str:
    slow = [factor - 1 for factor in margin.device_time_factor.values()]
    if not slow:
        return "no device time to allow for"
    least, most = f"{min(slow):.0%}", f"{max(slow):.0%}"
    return (
        f"devices may be {least} slower"
        if least == most
        else f"devices may be {least} to {most} slower"
    )


def _instead(price: ConfidencePrice, confidence: float, cost: float) -> str:
    other = _percent(price.confidence or 0.0)
    if price.total_per_hour is None:
        return f"no plan with {other}"
    return f"{other} instead of {_percent(confidence)} costs {_change(price.total_per_hour - cost, cost)}"


def _change(more: float, than: float) -> str:
    """By how much a cost changes, in percent; in dollars where there was none."""
    if than > 0:
        return f"{100 * more / than:+.0f} %" if abs(more) >= 0.005 * than else "the same"
    return f"{more:+.4g} USD/h" if more else "the same"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"
