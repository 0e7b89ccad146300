"""int8 weights and activations (QDQ); the ranges of the activations are measured on rendered lines of text."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from variants.data import render_lines

STAGE_CODE = Path(__file__).parents[1] / "ocr-recognise" / "stage" / "ocr_recognise.py"


def build(
    inputs: Mapping[str, Path],
    output: Path,
    options: Mapping[str, Any],
    progress: Callable[[int, int], None],
) -> None:
    """Quantize `inputs["model"]`, calibrated on `options["lines"]` lines made from `options["seed"]`."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = output.with_suffix(".prepared")
    quant_pre_process(str(inputs["model"]), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(output),
        _Calibration(int(options["lines"]), int(options["seed"]), progress),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()


class _Calibration:
    """What onnxruntime reads the calibration inputs from: half of them clean, half degraded."""

    def __init__(self, count: int, seed: int, progress: Callable[[int, int], None]) -> None:
        self._inputs = _inputs(count, seed)
        self._count, self._done = count, 0
        self._progress = progress

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input, or None at the end."""
        self._progress(self._done, self._count)
        self._done += 1
        return next(self._inputs, None)


def _inputs(count: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    items = _stage_code().Recognise.items
    for degraded in (False, True):
        for line in render_lines(count // 2, seed, degraded=degraded):
            (item,) = items(None, {"lines": [line.picture]})
            yield {name: array[None] for name, array in item.items()}


def _stage_code() -> Any:
    """The stage code as a module: what the model will be given is what it is calibrated on."""
    spec = importlib.util.spec_from_file_location(STAGE_CODE.stem, STAGE_CODE)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(STAGE_CODE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
