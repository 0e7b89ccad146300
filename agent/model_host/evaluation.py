"""Answers the messages of `v1/evaluation.proto`: a variant is loaded, and run over requests one by one.

What stage code or a model raises is the answer to that request, and the next one is answered as ever.
"""

from __future__ import annotations

import contextlib
import platform
from typing import Final

import msgspec

from agent.errors import StageCodeFailed
from agent.model_host import runtimes
from agent.model_host.inference import Artifacts, Inference
from tiermesh import evaluation
from tiermesh.documents.reading import decode_json
from tiermesh.documents.variant import Variant
from tiermesh.errors import TiermeshError, Unsupported
from tiermesh.v1 import evaluation_pb2 as pb

_THREADS: Final = 1
"""Of a variant, where the caller does not say."""


class Evaluator:
    """Runs the variants of `artifacts`, one at a time. Not thread-safe."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._inference: Inference | None = None

    def answer(self, request: pb.EvaluateRequest) -> pb.EvaluateEvent:
        """The one event that answers a request; an error is one as well."""
        try:
            return self._answer(request)
        except TiermeshError as error:
            return _error(error)
        except MemoryError:
            return _error(Unsupported("it does not fit into the memory of this machine"))
        except Exception as error:  # noqa: BLE001 - stage code and runtimes may raise anything
            return _error(StageCodeFailed.by(error, "the stage code or the model failed"))

    def close(self) -> None:
        """Give the loaded variant's memory back."""
        if self._inference is not None:
            with contextlib.suppress(Exception):
                self._inference.close()
        self._inference = None

    def _answer(self, request: pb.EvaluateRequest) -> pb.EvaluateEvent:
        match request.WhichOneof("request"):
            case "load":
                return pb.EvaluateEvent(loaded=self._load(request.load))
            case "run":
                payload = evaluation.payload_of(request.run)
                result = self._loaded.trial(payload, batched=False).result
                return pb.EvaluateEvent(result=evaluation.message_of(result))
            case "self_test":
                wrong = self._loaded.self_test() or ""
                return pb.EvaluateEvent(self_tested=pb.EvaluateSelfTested(wrong=wrong))
            case None:
                raise TiermeshError("the request is none that this version knows")

    def _load(self, request: pb.EvaluateLoad) -> pb.EvaluateLoaded:
        self.close()
        variant = decode_json(request.variant, Variant, "the variant")
        runtime = runtimes.runtime(variant.runtime)
        threads = request.threads or _THREADS
        self._inference = Inference.load(variant, self._artifacts, threads=threads)
        version = runtime.describe().version or platform.python_version()
        return pb.EvaluateLoaded(library=runtime.library, version=version)

    @property
    def _loaded(self) -> Inference:
        if self._inference is None:
            raise TiermeshError("no variant is loaded", fix="Load one first")
        return self._inference


def _error(error: TiermeshError) -> pb.EvaluateEvent:
    return pb.EvaluateEvent(error=msgspec.json.encode(error.to_dict(), enc_hook=str))
