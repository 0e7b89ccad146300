"""The characters that a recogniser knows, from its metadata: a text file, one a line, in the model's order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx


def build(
    inputs: Mapping[str, Path],
    output: Path,
    options: Mapping[str, Any],
    progress: Callable[[int, int], None],
) -> None:
    """Write the `character` entry of the model's metadata."""
    del options, progress
    model = onnx.load(str(inputs["model"]), load_external_data=False)
    listed = {entry.key: entry.value for entry in model.metadata_props}["character"]
    output.write_text(listed.removesuffix("\n"), encoding="utf-8", newline="\n")
