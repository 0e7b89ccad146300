"""The kinds of sources and sinks in a workflow file: the schema of each.

A kind is a struct here, registered in `SOURCES` or `SINKS`, and a module of that name in
`agent.serving.endpoint_io.kinds`, which does what the struct describes. Nothing else knows of a kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta, field
from msgspec.structs import fields

from tiermesh.documents.reading import close_match, to_plain
from tiermesh.documents.stages import Inputs, Options, Stage
from tiermesh.errors import InvalidDocument
from tiermesh.units import Rate

FILES_FIELD: Final = "image"
"""The name of a file's content in a payload, unless the workflow names it otherwise."""


class Source(Stage, frozen=True, kw_only=True):
    """Where requests begin. `rate` is how many come, or are made, a second: plans are made for it.

    A kind that extends this directly does not make requests by itself: they are offered to it from outside, until the
    workflow is stopped. A kind that makes its own extends `PacedSource`.
    """

    kind: ClassVar = "source"
    source: str
    rate: Rate | None = None

    @property
    def is_endless(self) -> bool:
        """Whether its run is over only when somebody stops it."""
        return True

    @property
    def is_even(self) -> bool:
        """Whether its requests come in equal intervals."""
        return False

    def mistake(self) -> tuple[str, str] | None:
        """A source whose rate is not known cannot be planned for."""
        if self.rate is None:
            return "rate", "a source needs a rate, for example `rate: 12/s`"
        return None

    @property
    def own_options(self) -> dict[str, Any]:
        """What this kind says beyond all others, but for its path, as plain data for the device that serves it."""
        return _own_options(self, PacedSource)


class PacedSource(Source, frozen=True, kw_only=True):
    """A source that makes its own requests, at a rate.

    `arrivals` is how they are spaced: `constant`, `poisson` (seeded), or `trace`, a file of seconds, one a line.
    `count` ends the run after that many requests; without it each item is sent once, or forever with `repeat`.
    """

    arrivals: Literal["constant", "poisson", "trace"] = "constant"
    trace: str | None = None
    seed: int = 0
    count: Annotated[int, Meta(ge=1)] | None = None
    repeat: bool = False

    @property
    def is_endless(self) -> bool:
        """Whether it repeats its items without end."""
        return self.repeat and self.count is None

    @property
    def is_even(self) -> bool:
        """Whether its requests come in equal intervals."""
        return self.arrivals == "constant"

    def mistake(self) -> tuple[str, str] | None:
        """A trace says when requests come; otherwise the rate does."""
        if self.arrivals != "trace":
            return super().mistake()
        if self.trace is None:
            return "trace", "`arrivals: trace` needs `trace: FILE`, one time in seconds a line"
        return None


class FilesSource(PacedSource, frozen=True, kw_only=True):
    """The files of folders or lists: each is a request, with its name as `name` and its content as `field`."""

    source: Literal["files"]
    path: str | list[str]
    field: str = FILES_FIELD

    def to_digest(self) -> dict[str, Any]:
        """Workflows from before there was a `field` keep their digests."""
        plain = super().to_digest()
        if self.field == FILES_FIELD:
            del plain["field"]
        return plain


class JsonlSource(PacedSource, frozen=True, kw_only=True):
    """The lines of a file, each a JSON object: the fields of a line are the payload of a request."""

    source: Literal["jsonl"]
    path: str


class Sink(Stage, frozen=True, kw_only=True):
    """Where results go."""

    kind: ClassVar = "sink"
    sink: str
    source_stages: Inputs = field(name="from")

    @property
    def own_options(self) -> dict[str, Any]:
        """What this kind says beyond all others, but for its path, as plain data for the device that serves it."""
        return _own_options(self, Sink)


class JsonlSink(Sink, frozen=True, kw_only=True):
    """A file of JSON lines, one for each request; of tensors and bytes a line has the form and size."""

    sink: Literal["jsonl"]
    path: str | None = None

    def mistake(self) -> tuple[str, str] | None:
        """The file must be named."""
        if self.path is None:
            return "path", "a jsonl sink needs the path of the file it writes"
        return None

    def to_digest(self) -> dict[str, Any]:
        """Workflows from when all sinks had the fields of a callback keep their digests."""
        return {"call": None, "options": {}, **super().to_digest()}


class CallbackSink(Sink, frozen=True, kw_only=True):
    """A function of the stage code in the folder `call`; `path`, if given, is where its outcomes are noted."""

    sink: Literal["callback"]
    call: str | None = None
    path: str | None = None
    options: Options = {}

    def mistake(self) -> tuple[str, str] | None:
        """The code must be named."""
        if self.call is None:
            return "call", "a callback sink needs `call: FOLDER`, the stage code to call"
        return None

    @property
    def own_options(self) -> dict[str, Any]:
        """Nothing: the code and its options go to the device as those of any other stage."""
        return {}


class FilesSink(Sink, frozen=True, kw_only=True):
    """A folder of files: for each value of a result one, `REQUEST-ID.NAME` with an ending that tells its form."""

    sink: Literal["files"]
    path: str


class ReplySink(Sink, frozen=True, kw_only=True):
    """Returns each result to the source that accepted the request, for the client that offered it there."""

    sink: Literal["reply"]


SOURCES: Final[dict[str, type[Source]]] = {"files": FilesSource, "jsonl": JsonlSource}
SINKS: Final[dict[str, type[Sink]]] = {
    "jsonl": JsonlSink,
    "callback": CallbackSink,
    "files": FilesSink,
    "reply": ReplySink,
}


def struct_of(body: Mapping[str, Any], role: Literal["source", "sink"], at: str) -> type[Stage]:
    """The struct of the kind that a source or sink at `$.stages.NAME` names.

    Raises:
        InvalidDocument: there is no such kind; lists those that there are.
    """
    kinds: Mapping[str, type[Stage]] = SOURCES if role == "source" else SINKS
    name = body[role]
    if isinstance(name, str) and name in kinds:
        return kinds[name]
    raise InvalidDocument(
        f"the workflow is wrong at `{at}.{role}`",
        why=f"there is no kind of {role} called `{name}`",
        fix=close_match([str(name)], kinds) + f"Allowed: {', '.join(kinds)}",
        path=f"{at}.{role}",
        found=name,
        allowed=list(kinds),
    )


def _own_options(stage: Source | Sink, shared: type[Stage]) -> dict[str, Any]:
    plain = to_plain(stage)
    common = {one.encode_name for one in fields(shared)} | {"path"}
    return {name: value for name, value in plain.items() if name not in common}
