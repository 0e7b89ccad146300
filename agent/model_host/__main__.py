"""The model host as a process: ``python -m agent.model_host PARENT SCRATCH FOLDER...``.

It reads requests of `v1/evaluation.proto` from standard input and writes an event for each to what was standard
output. `FOLDER`s hold artifacts by digest; bundles are unpacked into SCRATCH, which the caller removes, since this
process may be killed. It ends with its input, or with the process PARENT. Stage code gets the standard error stream
for both, so nothing that it prints can end up among the events.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import IO

from agent.model_host import process
from agent.model_host.artifacts import ArtifactFolders
from agent.model_host.evaluation import Evaluator
from tiermesh import evaluation
from tiermesh.v1 import evaluation_pb2 as pb


def main() -> None:
    """Answer until there are no more requests."""
    process.die_with(int(sys.argv[1]))
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    scratch, *folders = map(Path, sys.argv[2:])
    with closing(Evaluator(ArtifactFolders(folders, scratch))) as evaluator:
        _serve(evaluator, sys.stdin.buffer, events)


def _serve(evaluator: Evaluator, requests: IO[bytes], events: IO[bytes]) -> None:
    while (request := evaluation.read(requests, pb.EvaluateRequest)) is not None:
        evaluation.write(events, evaluator.answer(request))


if __name__ == "__main__":
    main()
