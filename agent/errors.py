"""The agent's own errors, below those of the contract (`tiermesh.errors`).

TiermeshError
├── StageCodeFailed      what people wrote for a stage does not load, start or work
├── MeasurementFailed    a measurement ended without saying anything about the device
├── StateDamaged         a file of the agent's state folder is not what the agent wrote
└── Superseded           a newer call for the same thing took over
"""

from __future__ import annotations

import traceback
from typing import Self

from tiermesh.errors import TiermeshError


class StageCodeFailed(TiermeshError):
    """Stage code, or the model that it feeds, raised or does not fit its stage."""

    kind = "stage-code-failed"

    @classmethod
    def by(cls, error: BaseException, what: str) -> Self:
        """`error` as the reason, with the place in the stage code that raised it."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f" ({frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno})" if frames else ""
        return cls(what, why=f"{type(error).__name__}: {str(error)[:300]}{place}")


class MeasurementFailed(TiermeshError):
    """It did not end in its time, or the process that measures is broken; another try may succeed."""

    kind = "measurement-failed"


class StateDamaged(TiermeshError):
    """A file in the state folder cannot be read; the fix says what removing it costs."""

    kind = "state-damaged"


class Superseded(TiermeshError):
    """A newer call for the same thing took over: whoever made this one may be gone already."""

    kind = "superseded"
