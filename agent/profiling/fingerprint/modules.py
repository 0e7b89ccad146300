"""Python packages that stage code may import here, with versions; none is imported to find out."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Final

# Often installed by the system without the metadata that pip leaves.
_WITHOUT_METADATA: Final = ("cv2", "numpy", "PIL", "scipy", "gi", "picamera2")


def probe(distributions: Mapping[str, Sequence[str]] | None = None) -> dict[str, str]:
    """Versions by the name to import; ``unknown`` where a package is there without metadata."""
    by_module = distributions or importlib.metadata.packages_distributions()
    found = {
        module: importlib.metadata.version(names[0])
        for module, names in by_module.items()
        if module.isidentifier() and not module.startswith("_")
    }
    bare = [
        module
        for module in _WITHOUT_METADATA
        if module not in found and importlib.util.find_spec(module) is not None
    ]
    return dict(sorted({**found, **dict.fromkeys(bare, "unknown")}.items()))
