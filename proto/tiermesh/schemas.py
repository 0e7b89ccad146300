"""The published JSON Schemas: ``python -m tiermesh.schemas [FOLDER]`` writes one file per document."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from tiermesh.documents import (
    assignment,
    fingerprint,
    plan,
    problem,
    profile,
    published,
    variant,
    workflow,
)
from tiermesh.documents.reading import schema_of

FOLDER: Final = Path(__file__).with_name("json_schemas")

_DOCUMENTS: Final[dict[str, type]] = {
    "fingerprint": fingerprint.Fingerprint,
    "variant": variant.Variant,
    "profile": profile.Profile,
    "published-profile": published.PublishedProfile,
    "problem": problem.Problem,
    "plan": plan.Plan,
    "assignment": assignment.Assignment,
}


def schemas() -> dict[str, dict[str, Any]]:
    """Every schema by file name."""
    found = {
        f"{name}.schema.json": schema_of(document, f"Tiermesh {name}")
        for name, document in _DOCUMENTS.items()
    }
    return {"workflow.schema.json": workflow.json_schema(), **found}


def write(folder: Path = FOLDER) -> None:
    """Write every schema into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        (folder / name).write_text(json.dumps(schema, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
