"""The files that operators write, from YAML: workflows and the fleet file."""

from __future__ import annotations

from pathlib import Path

from coordinator.fleet.file import FleetFile
from coordinator.fleet.state import WorkflowSource
from coordinator.workflows import plain_yaml
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
    workflow = check_workflow(text)
    folder = str(path.resolve().parent)
    return workflow, WorkflowSource(name=workflow.workflow, text=text, folder=folder)


def parse_workflow(text: str) -> Workflow:
    """A checked workflow from its text as the journal has it.

    Of keys that are there twice, the last counts, as it did when such texts were taken.
    """
    return workflows.parse(plain_yaml.load(text, "the workflow", repeated_keys=True))


def check_workflow(text: str) -> Workflow:
    """A checked workflow from a text as somebody has just written it.

    Raises:
        InvalidDocument: it is not YAML, a key is there twice, or a field is wrong.
    """
    return workflows.parse(plain_yaml.load(text, "the workflow"))


def read_fleet_file(path: Path) -> FleetFile:
    """A checked fleet file; an empty one says nothing.

    Raises:
        InvalidDocument: it cannot be read, it is not YAML, or a field is wrong.
    """
    plain = plain_yaml.load(_text(path, "the fleet file"), "the fleet file")
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
