"""Runs the recipe that standard input names."""

import importlib
import json
import sys
from pathlib import Path


def main() -> None:
    """Read the request, build, and say how far it is."""
    request = json.load(sys.stdin)
    recipe = importlib.import_module(f"{__package__}.{request['recipe']}")
    recipe.build(
        {name: Path(path) for name, path in request["inputs"].items()},
        Path(request["output"]),
        request["options"],
        say,
    )


def say(done: int, total: int) -> None:
    """One line of progress, as `coordinator.variants.building` reads it."""
    sys.stdout.write(f"progress {done}/{total}\n")
    sys.stdout.flush()


main()
