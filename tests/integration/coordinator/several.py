"""Runs several commands in one process: a line of JSON for each, with its exit code and its document.

The commands come as a JSON list of lists of words on the command line.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys

from coordinator.cli import main


def answers(commands: list[list[str]]) -> list[tuple[int, object]]:
    """The exit code and the document of each command."""
    told: list[tuple[int, object]] = []
    for words in commands:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = main(words)
        told.append((code, json.loads(out.getvalue())))
    return told


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answers(json.loads(sys.argv[1]))))
