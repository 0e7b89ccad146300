"""The calls of the API, as `coordinator.proto` describes them: their names on the wire and here, and their messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, cast

from google.protobuf import message_factory

from tiermesh.v1 import coordinator_pb2

_SERVICE: Final = cast("Any", coordinator_pb2.DESCRIPTOR).services_by_name["Coordinator"]
SERVICE_NAME: Final[str] = _SERVICE.full_name


@dataclass(frozen=True, slots=True)
class ApiCall:
    """A call: `wire_name` as in the .proto file, and the classes of its messages; `streams`: it has many replies."""

    wire_name: str
    request: Any
    reply: Any
    streams: bool

    @property
    def path(self) -> str:
        """Its path in a gRPC request."""
        return f"/{SERVICE_NAME}/{self.wire_name}"


def _calls() -> dict[str, ApiCall]:
    made: dict[str, ApiCall] = {}
    for method in _SERVICE.methods:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower()
        made[name] = ApiCall(
            wire_name=method.name,
            request=message_factory.GetMessageClass(method.input_type),
            reply=message_factory.GetMessageClass(method.output_type),
            streams=method.server_streaming,
        )
    return made


CALLS: Final = _calls()
"""By the names of the service's methods."""
