"""The published JSON Schema of the API's documents: ``python -m coordinator.api.schemas`` writes it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from coordinator.api import documents
from coordinator.planning.diff import Difference
from coordinator.planning.explain import Explanation
from coordinator.planning.simulate import SimulatedOutcome
from coordinator.telemetry.status import WorkflowStatus
from tiermesh.documents.plan import Plan
from tiermesh.documents.problem import Problem
from tiermesh.documents.profile import Profile
from tiermesh.documents.reading import quantity_schema
from tiermesh.documents.variant import Variant

FOLDER: Final = Path(__file__).with_name("json_schemas")
FILE_NAME: Final = "api.schema.json"

DOCUMENTS: Final[tuple[type, ...]] = (
    documents.Devices,
    documents.Events,
    documents.MeasurementReport,
    documents.Preview,
    documents.RolloutReport,
    documents.Drain,
    documents.ArtifactReport,
    documents.Causes,
    documents.WaitedRun,
    WorkflowStatus,
    Difference,
    Explanation,
    SimulatedOutcome,
    Plan,
    Problem,
    Profile,
    Variant,
)


def schema() -> dict[str, Any]:
    """Every document of the API by its name, below ``$defs``."""
    _, components = msgspec.json.schema_components(
        DOCUMENTS, schema_hook=quantity_schema, ref_template="#/$defs/{name}"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tiermesh coordinator API",
        "$defs": components,
    }


def write(folder: Path = FOLDER) -> None:
    """Write the schema into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(schema(), indent=1, sort_keys=True) + "\n"
    (folder / FILE_NAME).write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
