"""What a command prints: one JSON document on standard output with `--json`, else tables and sentences.

Progress and errors go to standard error, so that standard output can be piped.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from rich.console import Console

from tiermesh.errors import TiermeshError


class Output:
    """Where a command writes. `console` is for people; `document` is the answer for programs."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self.console = Console(highlight=False, emoji=False, quiet=json)
        self.progress = Console(stderr=True, highlight=False, emoji=False)

    def document(self, value: Any) -> None:
        """Print the command's one JSON document; without `--json`, nothing."""
        if self.json:
            text = msgspec.json.format(msgspec.json.encode(value, enc_hook=_plain), indent=2)
            sys.stdout.write(text.decode() + "\n")
            sys.stdout.flush()

    def error(self, error: TiermeshError) -> None:
        """Say what failed, why and what to do; with `--json` as a document, too."""
        self.progress.print(f"[bold red]error:[/] {_escaped(error.what)}")
        for label, text in (("why", error.why), ("fix", error.fix)):
            if text:
                self.progress.print(f"  [dim]{label}:[/] {_escaped(text)}")
        self.document({"error": error.to_dict()})


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, float) else str(value)
