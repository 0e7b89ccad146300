"""How the processes log: to standard error, as text for people or as JSON, one object a line.

The level and the format come from the command line, else from `TIERMESH_LOG_LEVEL` and `TIERMESH_LOG_FORMAT`, which
`configure` sets as well: processes that this one starts (an agent's worker, a measurement) log the same way.
"""

from __future__ import annotations

import argparse
import logging
import os
from typing import Final

LEVEL: Final = "TIERMESH_LOG_LEVEL"
FORMAT: Final = "TIERMESH_LOG_FORMAT"
LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("text", "json")

_TEXT: Final = "%(asctime)s %(levelname)-7s {process}%(name)s: %(message)s"
_JSON: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
_RENAMED: Final = {"asctime": "time", "levelname": "level", "name": "logger"}
_QUIET: Final = ("asyncio", "markdown_it", "matplotlib", "zeroconf")
"""Libraries whose debug lines are of use to nobody here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--log-level` and `--log-format` to a command."""
    parser.add_argument(
        "--log-level",
        choices=LEVELS,
        help=f"least severity of log lines on standard error (else ${LEVEL})",
    )
    parser.add_argument(
        "--log-format", choices=FORMATS, help=f"format of log lines (else ${FORMAT})"
    )


def configure(level: str | None, form: str | None, *, default: str, process: str = "") -> None:
    """Set logging up for this process and the processes that it starts.

    Args:
        level: one of `LEVELS`; None takes that of the environment, else `default`.
        form: one of `FORMATS`; None takes that of the environment, else text.
        default: the level where neither says one.
        process: the name of this process, which each line carries; for processes started by another.
    """
    level = _chosen(level or os.environ.get(LEVEL), LEVELS, default)
    form = _chosen(form or os.environ.get(FORMAT), FORMATS, "text")
    os.environ[LEVEL], os.environ[FORMAT] = level, form
    handler = logging.StreamHandler()
    handler.setFormatter(_formatter(form, process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def _chosen(value: str | None, known: tuple[str, ...], default: str) -> str:
    """What is set in the environment may be anything; logging must not fail for it."""
    return value.lower() if value is not None and value.lower() in known else default


def _formatter(form: str, process: str) -> logging.Formatter:
    if form == "text":
        return logging.Formatter(_TEXT.format(process=f"{process} " if process else ""))
    from pythonjsonlogger.json import JsonFormatter

    extra = {"process": process} if process else {}
    return JsonFormatter(
        _JSON, rename_fields=_RENAMED, static_fields=extra, datefmt="%Y-%m-%dT%H:%M:%S%z"
    )
