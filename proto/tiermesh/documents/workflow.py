"""The workflow file: a DAG of stages and what is asked of it (its SLO), written by hand in YAML.

A stage's kind is the key it is written with (`model: ocr-detect`); `from` names its inputs. Of sources and sinks there
are several kinds, each with options of its own (`tiermesh.documents.endpoints`). Quantities carry their unit. `parse`
turns the YAML's plain data into a checked `Workflow`: known kinds, inputs that exist, no cycle.
"""

from __future__ import annotations

import graphlib
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec
from msgspec import Meta, field

from tiermesh import ids, limits
from tiermesh.documents import endpoints
from tiermesh.documents.endpoints import Sink, Source
from tiermesh.documents.reading import (
    Document,
    close_match,
    convert,
    quantity_schema,
    to_plain,
)
from tiermesh.documents.stages import Inputs, Name, Options, Stage
from tiermesh.errors import InvalidDocument
from tiermesh.units import Duration, Power, Price, Rate, Share

Percentile: TypeAlias = Literal["p50", "p75", "p90", "p95", "p99"]

PERCENTILES: dict[str, float] = {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99}


class AccuracyAsk(Document, frozen=True, kw_only=True):
    """The least accuracy; the mean over requests, or, with `every_request`, of every variant mix used."""

    at_least: Share
    metric: str = "accuracy"
    dataset: str | None = None
    every_request: bool = False


class Slo(Document, frozen=True, kw_only=True):
    """What is asked of a workflow; every ask left out is not asked.

    `deadline` ends a request in an error when it is not done by then; without it the limit
    `limits.REQUEST_DEADLINE_S` holds. `confidence` is how sure latency is to hold although device times vary
    (95 % unless given).
    """

    rate: Rate | None = None
    accuracy: AccuracyAsk | None = None
    latency: dict[Percentile, Duration] = {}
    deadline: Duration | None = None
    cost: Price | None = None
    power: Power | None = None
    raw_data_stays_in: list[Name] = []
    confidence: Share | None = None


class Model(Stage, frozen=True, kw_only=True):
    """A model, served by one of the variants of its ladder."""

    kind: ClassVar = "model"
    model: Name
    source_stages: Inputs = field(name="from")
    variants: list[Name] = []
    options: Options = {}


class Map(Stage, frozen=True, kw_only=True):
    """Stage code that turns each frame into one frame. `map` is the folder of the code."""

    kind: ClassVar = "map"
    map: str
    source_stages: Inputs = field(name="from")
    options: Options = {}


class Filter(Stage, frozen=True, kw_only=True):
    """Stage code that lets a frame pass or ends its request with the outcome `filtered`."""

    kind: ClassVar = "filter"
    filter: str
    source_stages: Inputs = field(name="from")
    options: Options = {}


class Join(Stage, frozen=True, kw_only=True):
    """Stage code that waits for the frames of one request from all inputs and makes one of them."""

    kind: ClassVar = "join"
    join: str
    source_stages: Annotated[list[Name], Meta(min_length=2)] = field(name="from")
    options: Options = {}


class Aggregate(Stage, frozen=True, kw_only=True):
    """Stage code with state per `key` of the payload; all frames of a key go to one replica, in order."""

    kind: ClassVar = "aggregate"
    aggregate: str
    key: str
    source_stages: Inputs = field(name="from")
    options: Options = {}


class Union(Stage, frozen=True, kw_only=True):
    """Passes on each frame of any of its inputs."""

    kind: ClassVar = "union"
    union: bool
    source_stages: Annotated[list[Name], Meta(min_length=2)] = field(name="from")

    def mistake(self) -> tuple[str, str] | None:
        """`false` would mean that there is no such stage."""
        return None if self.union else ("union", "write `union: true`, or leave the stage out")


KINDS: dict[str, type[Stage]] = {
    kind.kind: kind for kind in (Source, Model, Map, Filter, Join, Aggregate, Union, Sink)
}


class Workflow(Document, frozen=True, kw_only=True):
    """A checked workflow: `stages` in an order in which inputs come before the stages that read them."""

    workflow: Name
    stages: dict[str, Source | Model | Map | Filter | Join | Aggregate | Union | Sink]
    slo: Slo

    @property
    def edges(self) -> list[tuple[str, str]]:
        """(from, to) for every input of every stage."""
        return [(u, name) for name, stage in self.stages.items() for u in stage.inputs]

    def of_kind(self, kind: type[Stage]) -> list[str]:
        """The names of the stages of one kind."""
        return [name for name, stage in self.stages.items() if isinstance(stage, kind)]

    def offered_rps(self, source: str) -> float:
        """Requests a second that a source offers; 0 where nothing says.

        Its own `rate`, and at least `slo.rate` where the workflow has one source.
        """
        stage = self.stages[source]
        own = float(stage.rate or 0.0) if isinstance(stage, Source) else 0.0
        asked = float(self.slo.rate or 0.0)
        return max(own, asked) if len(self.of_kind(Source)) == 1 else own or asked

    @property
    def digest(self) -> str:
        """The digest that a plan names: equal for workflows that mean the same."""
        plain = to_plain(self)
        plain["stages"] = {name: stage.to_digest() for name, stage in self.stages.items()}
        if self.slo.confidence is None:
            plain["slo"].pop("confidence")
        return ids.digest_value(plain)


class _Outline(Document, frozen=True, kw_only=True):
    workflow: Name
    stages: Annotated[dict[Name, dict[str, Any]], Meta(min_length=1, max_length=limits.STAGES)]
    slo: Slo = Slo()


def parse(data: object) -> Workflow:
    """Check the plain data of a workflow file.

    Raises:
        InvalidDocument: unknown kind, unknown key, missing unit, unknown input, cycle, no source, no sink.
    """
    outline = convert(data, _Outline, "the workflow")
    stages = {name: _stage(name, body) for name, body in outline.stages.items()}
    order = _order(stages)
    _check_shape(stages)
    return Workflow(
        workflow=outline.workflow,
        stages={name: stages[name] for name in order},  # pyright: ignore[reportArgumentType]
        slo=outline.slo,
    )


def _stage(name: str, body: Mapping[str, Any]) -> Stage:
    at = f"$.stages.{name}"
    found = [key for key in body if key in KINDS]
    if len(found) != 1:
        raise InvalidDocument(
            f"the workflow is wrong at `{at}`",
            why=(
                f"a stage has one kind, and this one has {', '.join(found)}"
                if found
                else f"no stage kind among its keys ({', '.join(map(str, body)) or 'none'})"
            ),
            fix=close_match(map(str, body), KINDS) + f"Allowed: {', '.join(KINDS)}",
            path=at,
            found=list(body),
            allowed=list(KINDS),
        )
    key = found[0]
    struct = endpoints.struct_of(body, key, at) if key in ("source", "sink") else KINDS[key]
    stage = convert(dict(body), struct, "the workflow", at)
    _check_stage(stage, at)
    return stage


def _check_stage(stage: Stage, at: str) -> None:
    mistake = stage.mistake()
    if mistake is not None:
        key, why = mistake
        raise InvalidDocument(f"the workflow is wrong at `{at}.{key}`", why=why, path=f"{at}.{key}")


def _order(stages: Mapping[str, Stage]) -> list[str]:
    for name, stage in stages.items():
        for u in stage.inputs:
            if u not in stages:
                raise InvalidDocument(
                    f"the workflow is wrong at `$.stages.{name}.from`",
                    why=f"there is no stage `{u}`",
                    fix=f"Allowed: {', '.join(s for s in stages if s != name)}",
                    path=f"$.stages.{name}.from",
                    found=u,
                )
    try:
        sorter = graphlib.TopologicalSorter({name: stage.inputs for name, stage in stages.items()})
        return list(sorter.static_order())
    except graphlib.CycleError as error:
        cycle = list(reversed(error.args[1]))
        raise InvalidDocument(
            "the workflow has a cycle",
            why=" -> ".join(cycle),
            fix="Take one of these `from` away; a workflow flows from sources to sinks",
            path=f"$.stages.{cycle[0]}.from",
            cycle=cycle,
        ) from None


def _check_shape(stages: Mapping[str, Stage]) -> None:
    read = {u for stage in stages.values() for u in stage.inputs}
    sinks = {name for name, stage in stages.items() if isinstance(stage, Sink)}
    if not any(isinstance(stage, Source) for stage in stages.values()):
        raise InvalidDocument("the workflow has no source", fix="Add a stage with `source: files`")
    if not sinks:
        raise InvalidDocument("the workflow has no sink", fix="Add a stage with `sink: jsonl`")
    for name in sorted(read & sinks):
        raise InvalidDocument(
            f"the workflow is wrong: a stage reads from the sink `{name}`", path=f"$.stages.{name}"
        )
    for name in sorted(stages.keys() - read - sinks):
        raise InvalidDocument(
            f"the workflow is wrong at `$.stages.{name}`",
            why="no stage reads what it makes, so its requests would never end",
            fix=f"Name `{name}` in the `from` of another stage, or remove it",
            path=f"$.stages.{name}",
        )


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file as written, for editors that complete and check YAML."""
    others = [kind for kind in KINDS.values() if kind not in (Source, Sink)]
    kinds = [*endpoints.SOURCES.values(), *others, *endpoints.SINKS.values()]
    (_, *stage_refs), components = _schemas([_Outline, *kinds], quantity_schema)
    outline = components["_Outline"]
    outline["properties"]["stages"]["additionalProperties"] = {"anyOf": stage_refs}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **outline,
        "title": "Tiermesh workflow",
        "$defs": {name: body for name, body in components.items() if name != "_Outline"},
    }


def _schemas(types: list[Any], hook: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    refs, components = msgspec.json.schema_components(
        types, schema_hook=hook, ref_template="#/$defs/{name}"
    )
    return refs, components


def is_path_inside(path: str) -> bool:
    """Whether a path of a source or sink stays inside the data folder of the device that serves it."""
    return not re.match(r"^(/|[A-Za-z]:)", path) and ".." not in re.split(r"[/\\]", path)
