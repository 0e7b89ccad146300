"""The files that operators write, from YAML: workflows and the fleet file."""

from __future__ import annotations

from pathlib import Path

import yaml

from coordinator.fleet.file import FleetFile
from coordinator.fleet.state import WorkflowSource
from tiermesh import limits
from tiermesh.documents import workflow as workflows
from tiermesh.documents.reading import convert
from tiermesh.documents.workflow import Workflow
from tiermesh.errors import InvalidDocument, LimitExceeded


def read_workflow(path: Path) -> tuple[Workflow, WorkflowSource]:
    """A checked workflow, and its text and folder as the journal keeps them.

    Raises:
        InvalidDocument: it cannot be read, it is not YAML, or a field is wrong.
    """
    text = _text(path, "the workflow")
    workflow = parse_workflow(text)
    folder = str(path.resolve().parent)
    return workflow, WorkflowSource(name=workflow.workflow, text=text, folder=folder)


def parse_workflow(text: str) -> Workflow:
    """A checked workflow from the text of its file."""
    return workflows.parse(_plain(text, "the workflow"))


def read_fleet_file(path: Path) -> FleetFile:
    """A checked fleet file; an empty one says nothing.

    Raises:
        InvalidDocument: it cannot be read, it is not YAML, or a field is wrong.
    """
    plain = _plain(_text(path, "the fleet file"), "the fleet file")
    return convert({} if plain is None else plain, FleetFile, "the fleet file")


def _text(path: Path, what: str) -> str:
    try:
        if path.stat().st_size > limits.DOCUMENT_BYTES:
            raise LimitExceeded(
                f"{what} {path} is too large", why=f"the limit is {limits.DOCUMENT_BYTES} bytes"
            )
        return path.read_text(encoding="utf-8")
    except OSError as error:
        why = error.strerror or str(error)
        raise InvalidDocument(f"cannot read {what} {path}", why=why, path=str(path)) from None
    except UnicodeDecodeError as error:
        raise InvalidDocument(f"{what} is not text", why=str(error), path=str(path)) from None


def _plain(text: str, what: str) -> object:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise InvalidDocument(f"{what} is not YAML", why=why, path="$") from None
