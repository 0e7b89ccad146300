"""Callback: stage code takes the results, in the compute lane; here it is only noted which requests have ended."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.serving.endpoint_io.kinds import SinkPlace
from agent.serving.endpoint_io.results import RecordedSink, ResultFile
from tiermesh.documents.assignment import SinkSpec


class CallbackSinkKind:
    """`sink: callback`."""

    returns_results = False

    def record(self, spec: SinkSpec, place: SinkPlace) -> Path:
        """The file `path` of the data folder, or one beside the agent's state.

        Raises:
            TiermeshError: it would be outside.
        """
        return place.data.path(spec.path) if spec.path is not None else place.record

    def open(self, spec: SinkSpec, place: SinkPlace) -> RecordedSink:
        """The record, without payloads.

        Raises:
            TiermeshError: it cannot be written.
        """
        return RecordedSink(ResultFile(self.record(spec, place)), with_payload=False)


SINK: Final = CallbackSinkKind()
