"""int8 weights; activations are quantized as they come. Only matrix products: they are where the weights are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def build(
    inputs: Mapping[str, Path],
    output: Path,
    options: Mapping[str, Any],
    progress: Callable[[int, int], None],
) -> None:
    """Quantize the matrix products of `inputs["model"]`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    del options, progress
    quantize_dynamic(
        str(inputs["model"]),
        str(output),
        op_types_to_quantize=["MatMul"],
        weight_type=QuantType.QInt8,
    )
