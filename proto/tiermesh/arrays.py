"""Payloads as stage code and the scoring of results see them: NumPy arrays in the place of tensors."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from typing import Any, cast

from tiermesh.frames import Tensor


def arrays(value: Any) -> Any:
    """`value` with each Tensor, at any depth, as a read-only NumPy array over the same memory.

    Without NumPy on this machine, tensors stay as they are.
    """
    return _converted(value) if _has_numpy() else value


def _converted(value: Any) -> Any:
    match value:
        case Tensor():
            return value.numpy()
        case Mapping():
            pairs = cast("Mapping[str, Any]", value).items()
            return {key: _converted(inner) for key, inner in pairs}
        case list() | tuple():
            return [_converted(inner) for inner in cast("list[Any]", value)]
        case _:
            return value


def _has_numpy() -> bool:
    return "numpy" in sys.modules or importlib.util.find_spec("numpy") is not None
