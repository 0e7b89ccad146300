"""ONNX Runtime, on the processor or with the provider that a variant's settings name.

Threads do not spin while they wait: on a device that is shared, or emulated, spinning burns the
time of others.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agent.model_host.runtimes import InferenceRuntime, LoadedModel, ModelToLoad, settings_of
from tiermesh.documents import fingerprint
from tiermesh.documents.reading import Document
from tiermesh.errors import TiermeshError, Unsupported

_DISTRIBUTIONS: Final = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
_CPU: Final = "CPUExecutionProvider"
_PROVIDER_LIBRARIES: Final = {
    "libonnxruntime_providers_tensorrt.so": "TensorrtExecutionProvider",
    "libonnxruntime_providers_cuda.so": "CUDAExecutionProvider",
    "libonnxruntime_providers_openvino.so": "OpenVINOExecutionProvider",
}
_LOG_ERRORS_ONLY: Final = 3
_CHARS: Final = 1_000
_CODE: Final = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE_PLACE: Final = re.compile(r"(?<=:)\S*/onnxruntime/core/\S+:\d+ .*?\) (?=[A-Z])")
_FIX_NEWER: Final = "Export the model for an older opset and IR version, or install a newer onnxruntime on the device"


class OnnxSettings(Document, frozen=True, kw_only=True):
    """What a variant may set. `provider` is as ONNX Runtime names it; what it cannot compute falls to the processor."""

    provider: str = _CPU


class OnnxRuntime:
    """The library as a whole: what there is of it, and how a model is loaded."""

    library = "onnxruntime"
    install = "pip install 'tiermesh[onnx]'"
    needs_model_file = True

    def describe(self) -> fingerprint.Runtime:
        """Version and providers as the installed files tell them; importing would cost 44 MB."""
        version = next(filter(None, map(_version, _DISTRIBUTIONS)), None)
        if version is None:
            return fingerprint.Runtime(name="onnx", unavailable="onnxruntime is not installed")
        if importlib.util.find_spec("numpy") is None:
            return fingerprint.Runtime(
                name="onnx", version=version, unavailable="numpy, which it needs, is not installed"
            )
        return fingerprint.Runtime(name="onnx", version=version, providers=_providers())

    def start(self) -> None:
        """Import the library; Unsupported where it is installed and broken."""
        try:
            import onnxruntime  # noqa: F401  # pyright: ignore[reportUnusedImport]
        except Exception as error:
            raise Unsupported("onnxruntime does not import", why=_first_line(error)) from error

    def load(self, model: ModelToLoad) -> LoadedModel:
        """Load one self-contained ``.onnx`` or ``.ort`` file; Unsupported carries the reason."""
        provider = settings_of(model, OnnxSettings).provider
        self.start()
        # Its stubs leave most of it untyped.
        import onnxruntime

        ort: Any = onnxruntime
        _check_provider(provider, ort.get_available_providers())
        providers = list(dict.fromkeys((provider, _CPU)))
        try:
            session = ort.InferenceSession(
                str(model.model), sess_options=_options(model.threads), providers=providers
            )
        except Exception as error:
            raise _cannot_load(error) from error
        # A provider whose own libraries are missing is left out in silence: what is measured would be another.
        _check_provider(provider, session.get_providers())
        return OnnxSession(session)


class OnnxSession:
    """A loaded model.

    A model whose first axis is fixed is run as often as it takes; the batch then saves no time, and
    the profile shows it.
    """

    def __init__(self, session: Any) -> None:
        self._session: Any = session
        self._outputs = tuple(output.name for output in session.get_outputs())
        self._fixed_batch = _fixed_batch([one.shape for one in session.get_inputs()])

    def run(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """One batch: arrays by input name in, by output name out, the first axis the item.

        Raises:
            TiermeshError: a model of a fixed batch size does not fit, or an output has no axis of
            items.
        """
        size = len(next(iter(batch.values())))
        if self._fixed_batch in (None, size):
            return self._checked(self._session.run(None, dict(batch)), size)
        return self._in_steps(batch, size, self._fixed_batch)

    def close(self) -> None:
        """Give the model's memory back."""
        self._session = None

    def _in_steps(self, batch: Mapping[str, Any], size: int, step: int) -> Mapping[str, Any]:
        import numpy as np

        if size % step:
            raise TiermeshError(
                f"a batch of {size} items does not fit the model",
                why=f"its inputs are fixed to {step} at a time",
            )
        parts = [
            self._checked(
                self._session.run(None, {k: v[at : at + step] for k, v in batch.items()}), step
            )
            for at in range(0, size, step)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}

    def _checked(self, values: Sequence[Any], size: int) -> Mapping[str, Any]:
        outputs = dict(zip(self._outputs, values, strict=True))
        for name, value in outputs.items():
            shape = getattr(value, "shape", ())
            if shape[:1] != (size,):
                raise TiermeshError(
                    f"the model's output {name!r} has the shape {shape}",
                    why=f"its first axis should be the {size} items of the batch",
                )
        return outputs


def _check_provider(wanted: str, there: Sequence[str]) -> None:
    if wanted not in there:
        raise Unsupported(
            f"ONNX Runtime has no provider {wanted} on this device",
            why=f"there are: {', '.join(there)}",
            fix="Install the build of onnxruntime that has it, or name another provider",
            runtime="onnx",
        )


def _options(threads: int) -> Any:
    # Its stubs leave these untyped.
    import onnxruntime

    library: Any = onnxruntime
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A memory pattern is kept for every shape seen, and shapes differ between batches: without, PP-OCRv3
    # detection takes 91 instead of 141 MB and is as fast. Without the arena it would be a third slower.
    options.enable_mem_pattern = False
    return options


def _fixed_batch(shapes: Sequence[Sequence[Any]]) -> int | None:
    """The batch size that a model insists on; None where its first axis is symbolic."""
    fixed = {shape[0] for shape in shapes if shape and isinstance(shape[0], int) and shape[0] > 0}
    return fixed.pop() if len(fixed) == 1 else None


def _providers() -> list[str]:
    spec = importlib.util.find_spec("onnxruntime")
    places = spec.submodule_search_locations if spec is not None else None
    capi = [Path(place) / "capi" for place in places or ()]
    found = [
        provider
        for library, provider in _PROVIDER_LIBRARIES.items()
        if any((folder / library).exists() for folder in capi)
    ]
    return [*found, _CPU]


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:_CHARS] if lines else type(error).__name__


def _cannot_load(error: Exception) -> Unsupported:
    """What ONNX Runtime says, without the places in its own source in front of it, and what can be done."""
    said = _CODE.sub("", " ".join(str(error).split()))
    why = _SOURCE_PLACE.sub(" ", said)[:_CHARS] or type(error).__name__
    is_newer = any(sign in why for sign in ("opset", "IR version", "IR_VERSION"))
    return Unsupported(
        "ONNX Runtime cannot load the model",
        why=why,
        fix=_FIX_NEWER if is_newer else "",
        runtime="onnx",
    )


RUNTIME: Final[InferenceRuntime] = OnnxRuntime()
