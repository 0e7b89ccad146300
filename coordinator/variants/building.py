"""Runs the recipes that build artifacts: modules of `variants.recipes`, each in a Python process of its own.

A recipe is slow, takes much memory and sets global state of the libraries that it uses; none of that stays here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

from coordinator.variants.ladder import Built
from tiermesh import ids
from tiermesh.documents.variant import Artifact
from tiermesh.errors import TiermeshError, Unsupported

TOOLS: Final = {
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "numpy": "numpy",
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
}
"""The modules that recipes import, and the distributions that have them."""
_PROGRESS: Final = re.compile(r"^progress (\d+)/(\d+)$")


def tool_versions() -> dict[str, str]:
    """The versions of the libraries that decide what a recipe makes, by distribution."""
    return {name: _version(module, name) for module, name in TOOLS.items()}


def build_key(directory: Path, built: Built, inputs: Mapping[str, Artifact]) -> str:
    """Equal for builds that would give the same: recipe, inputs, options, and the versions of the tools."""
    sources = [*(directory / "recipes").glob("*.py"), *(directory / "data").glob("*.py")]
    return ids.digest_value(
        {
            "recipe": built.recipe,
            "options": dict(built.options),
            "inputs": {name: artifact.digest for name, artifact in inputs.items()},
            "sources": {
                str(p.relative_to(directory)): ids.digest_bytes(p.read_bytes()) for p in sources
            },
            "tools": tool_versions(),
        }
    )


def run_recipe(
    directory: Path,
    built: Built,
    inputs: Mapping[str, Path],
    output: Path,
    seen: Callable[[int, int], None],
) -> None:
    """Build one file; `seen` hears (steps done, steps in all).

    Args:
        directory: the `variants` folder, whose `recipes` package has the recipe.
        built: which recipe, with which options.
        inputs: the recipe's inputs by its names for them.
        output: the file to write.
        seen: hears of progress.

    Raises:
        Unsupported: a library that recipes need is not installed.
        TiermeshError: the recipe failed, with its last words.
    """
    check_tools()
    request = {
        "recipe": built.recipe,
        "inputs": {name: str(path) for name, path in inputs.items()},
        "output": str(output),
        "options": dict(built.options),
    }
    words, status = _run(directory, json.dumps(request), seen)
    if status != 0 or not output.is_file():
        raise TiermeshError(
            f"the recipe {built.recipe} failed",
            why=" / ".join(words[-3:]) or f"it ended with status {status} and wrote nothing",
            fix="Run the command again; if it stays, the recipe does not work with these versions",
            tools=tool_versions(),
        )


def check_tools() -> None:
    """Raise Unsupported when a library that recipes need is missing."""
    missing = sorted(name for module, name in TOOLS.items() if not importlib.util.find_spec(module))
    if missing:
        raise Unsupported(
            "variants cannot be built here",
            why=f"not installed: {', '.join(missing)}",
            fix="Run: pip install 'tiermesh[coordinator,onnx,vision,variants]'",
            missing=missing,
        )


def _run(directory: Path, request: str, seen: Callable[[int, int], None]) -> tuple[list[str], int]:
    paths = [str(directory.parent), *filter(None, sys.path)]
    words: list[str] = []
    with subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", f"{directory.name}.recipes"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdin is not None  # noqa: S101 - asked for above
        assert process.stdout is not None  # noqa: S101
        try:
            process.stdin.write(request)
            process.stdin.close()
            for line in process.stdout:
                if match := _PROGRESS.match(line.strip()):
                    seen(int(match[1]), int(match[2]))
                elif line.strip():
                    words.append(line.strip())
        except BaseException:
            process.kill()
            raise
    return words, process.returncode


def _version(module: str, distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "other" if importlib.util.find_spec(module) else "none"
