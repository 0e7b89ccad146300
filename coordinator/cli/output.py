"""What a command prints: one JSON document on standard output with `--json`, else tables and sentences.

Progress and errors go to standard error, so that standard output can be piped.
"""

from __future__ import annotations

from typing import Any

import msgspec
from rich.console import Console

from tiermesh.errors import TiermeshError


class CommandOutput:
    """Where a command writes. `console` is for people; `document` is the answer for programs."""

    def __init__(
        self, *, json: bool, console: Console | None = None, progress: Console | None = None
    ) -> None:
        self.json = json
        self.console = console or _console()
        self.console.quiet = json
        self.progress = progress or _console(stderr=True)

    def document(self, value: Any) -> None:
        """Print the command's one JSON document; without `--json`, nothing."""
        if self.json:
            text = msgspec.json.format(msgspec.json.encode(value, enc_hook=_plain), indent=2)
            self.console.file.write(text.decode() + "\n")
            self.console.file.flush()

    def document_line(self, value: Any) -> None:
        """Print one JSON document of many, on a line of its own; without `--json`, nothing."""
        if self.json:
            self.console.file.write(msgspec.json.encode(value, enc_hook=_plain).decode() + "\n")
            self.console.file.flush()

    def error(self, error: TiermeshError) -> None:
        """Say what failed, why and what to do; with `--json` as a document, too."""
        self.progress.print(f"[bold red]error:[/] {_escaped(error.what)}")
        for label, text in (("why", error.why), ("fix", error.fix)):
            if text:
                self.progress.print(f"  [dim]{label}:[/] {_escaped(text)}")
        self.document({"error": error.to_dict()})


def _console(*, stderr: bool = False) -> Console:
    return Console(stderr=stderr, highlight=False, emoji=False)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, float) else str(value)
