"""Reply: results go back with the confirmation to the source that accepted the request, for the client that offered it.

The record has no payloads: where a confirmation is lost together with this worker, the request comes again with its
result, which is returned then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.serving.endpoint_io.kinds import SinkPlace
from agent.serving.endpoint_io.results import RecordedSink, ResultFile
from tiermesh.documents.assignment import SinkSpec


class ReplySinkKind:
    """`sink: reply`."""

    returns_results = True

    def record(self, spec: SinkSpec, place: SinkPlace) -> Path:
        """A file beside the agent's state."""
        return place.record

    def open(self, spec: SinkSpec, place: SinkPlace) -> RecordedSink:
        """The record, without payloads.

        Raises:
            TiermeshError: it cannot be written.
        """
        return RecordedSink(ResultFile(self.record(spec, place)), with_payload=False)


SINK: Final = ReplySinkKind()
