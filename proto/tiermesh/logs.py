"""How the processes log: to standard error or to a file, as text for people or as JSON, one object a line.

A line is written by a thread of its own, since a slow disk or terminal must not hold up an event loop.

The level and the format come from the command line, else from `TIERMESH_LOG_LEVEL` and `TIERMESH_LOG_FORMAT`, which
`configure` sets as well: processes that this one starts (an agent's worker, a measurement) log the same way.
"""

from __future__ import annotations

import argparse
import atexit
import logging
import logging.handlers
import os
import queue
import sys
from pathlib import Path
from typing import Any, Final, TextIO

LEVEL: Final = "TIERMESH_LOG_LEVEL"
FORMAT: Final = "TIERMESH_LOG_FORMAT"
LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("text", "json")

_TEXT: Final = "%(asctime)s %(levelname)-7s {process}%(name)s: %(message)s"
_JSON: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
_RENAMED: Final = {"asctime": "time", "levelname": "level", "name": "logger"}
_FILE_BYTES: Final = 10_000_000
_FILES: Final = 3
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


def configure(
    level: str | None,
    form: str | None,
    *,
    default: str,
    process: str = "",
    file: Path | None = None,
) -> None:
    """Set logging up for this process and the processes that it starts.

    Args:
        level: one of `LEVELS`; None takes that of the environment, else `default`.
        form: one of `FORMATS`; None takes that of the environment, else text.
        default: the level where neither says one.
        process: the name of this process, which each line carries; for processes started by another.
        file: where to write instead of standard error; for a process that draws on its terminal.
    """
    # Only what somebody chose is passed on: a process that is started has a default of its own.
    os.environ.update({k: v for k, v in ((LEVEL, level), (FORMAT, form)) if v is not None})
    level = _chosen(os.environ.get(LEVEL), LEVELS, default)
    form = _chosen(os.environ.get(FORMAT), FORMATS, "text")
    handler = _handler(file)
    handler.setFormatter(_formatter(form, process))
    _writing.start(handler, level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def stop() -> None:
    """Write what is queued; for a process that ends without the interpreter's exit handlers."""
    _writing.stop()


class _Writing:
    """The thread that writes; at most one, however often logging is configured."""

    def __init__(self) -> None:
        self._listener: logging.handlers.QueueListener | None = None
        self._handler: logging.Handler | None = None

    def start(self, handler: logging.Handler, level: str) -> None:
        self.stop()
        lines: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._listener = logging.handlers.QueueListener(lines, handler)
        self._listener.start()
        self._handler = logging.handlers.QueueHandler(lines)
        logging.getLogger().addHandler(self._handler)
        logging.getLogger().setLevel(level)

    def stop(self) -> None:
        if self._listener is not None:
            self._listener.stop()
            self._listener = None
        if self._handler is not None:
            logging.getLogger().removeHandler(self._handler)
            self._handler = None


_writing: Final = _Writing()
atexit.register(stop)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the time."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # pyright: ignore[reportIncompatibleVariableOverride]
        return sys.stderr


def _handler(file: Path | None) -> logging.Handler:
    if file is None:
        return _StandardError()
    file.parent.mkdir(parents=True, exist_ok=True)
    return logging.handlers.RotatingFileHandler(
        file, maxBytes=_FILE_BYTES, backupCount=_FILES, encoding="utf-8", delay=True
    )


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
