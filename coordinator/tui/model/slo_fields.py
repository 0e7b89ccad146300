"""What is asked of a workflow, as fields that can be changed, and the workflow file with the changes in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

import yaml

from coordinator.workflows import plain_yaml
from coordinator.workflows.yaml_files import parse_workflow
from tiermesh.documents.workflow import Slo, Source, Workflow
from tiermesh.errors import InvalidDocument
from tiermesh.units import Duration, Price, Quantity, Rate, Share

FIELDS: Final[dict[str, tuple[str, type[Quantity], str]]] = {
    "rate": ("rate at least", Rate, "requests to be served, such as 12/s"),
    "accuracy": ("accuracy at least", Share, "the mean over requests, such as 93 %"),
    "p95": ("latency p95 at most", Duration, "end to end, such as 900 ms"),
    "cost": ("cost at most", Price, "such as 0.40 USD/h"),
}
"""The asks that can be changed: what they are called, their unit, and how they are written."""


@dataclass(frozen=True, slots=True)
class Field:
    """One ask: as the workflow has it, and as it would be. Empty is not asked."""

    key: str
    title: str
    before: str
    now: str

    @property
    def changed(self) -> bool:
        """Whether it differs from what the workflow has."""
        return self.before != self.now


@lru_cache(maxsize=16)
def parsed(text: str) -> Workflow:
    """A workflow of the journal; each text is read once."""
    return parse_workflow(text)


def fields(slo: Slo, changes: Mapping[str, str]) -> list[Field]:
    """The asks of a workflow with the changes that are wanted."""
    before = written(slo)
    return [
        Field(key, title, before[key], changes.get(key, before[key]))
        for key, (title, _, _) in FIELDS.items()
    ]


def written(slo: Slo) -> dict[str, str]:
    """The asks as one writes them; empty where nothing is asked."""
    p95 = slo.latency.get("p95")
    return {
        "rate": f"{float(slo.rate):g}/s" if slo.rate is not None else "",
        "accuracy": f"{100 * float(slo.accuracy.at_least):g} %" if slo.accuracy is not None else "",
        "p95": f"{1_000 * float(p95):g} ms" if p95 is not None else "",
        "cost": f"{float(slo.cost):g} USD/h" if slo.cost is not None else "",
    }


def checked(key: str, value: str) -> str:
    """A value as it is kept, once it is known to be right.

    Raises:
        InvalidDocument: it cannot be read.
    """
    title, unit, example = FIELDS[key]
    if not value:
        return ""
    try:
        unit.parse(value)
    except ValueError as error:
        raise InvalidDocument(f"{title}: {error}", fix=f"Write {example}", path=key) from None
    return value


def changed_text(text: str, changes: Mapping[str, str]) -> str:
    """The workflow file with other asks. Of a workflow with one source, the rate is that of the source, too.

    Raises:
        InvalidDocument: the file with the changes is no workflow, or accuracy is asked without a data set.
    """
    before = written(parsed(text).slo)
    wanted = {key: value for key, value in changes.items() if value != before[key]}
    if not wanted:
        return text
    plain = cast("dict[str, Any]", plain_yaml.load(text, "the workflow", repeated_keys=True))
    slo: dict[str, Any] = plain.setdefault("slo", {})
    for key, value in wanted.items():
        _CHANGE[key](plain, slo, value)
    found = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    parse_workflow(found)
    return found


def _set(slo: dict[str, Any], key: str, value: object) -> None:
    if value:
        slo[key] = value
    else:
        slo.pop(key, None)


def _change_rate(plain: dict[str, Any], slo: dict[str, Any], value: str) -> None:
    _set(slo, "rate", value)
    sources = [s for s in plain["stages"].values() if Source.kind in s]
    if value and len(sources) == 1 and "rate" in sources[0]:
        sources[0]["rate"] = value


def _change_accuracy(_plain: dict[str, Any], slo: dict[str, Any], value: str) -> None:
    if not value:
        slo.pop("accuracy", None)
    elif isinstance(slo.get("accuracy"), dict):
        slo["accuracy"]["at_least"] = value
    else:
        raise InvalidDocument(
            "accuracy cannot be asked from here",
            why="the workflow does not say on which data set it was measured",
            fix="Add `accuracy: {metric: …, dataset: …, at_least: …}` to its slo, and plan it once",
        )


def _change_latency(_plain: dict[str, Any], slo: dict[str, Any], value: str) -> None:
    latency = dict(slo.get("latency") or {})
    _set(latency, "p95", value)
    _set(slo, "latency", latency)


def _change_cost(_plain: dict[str, Any], slo: dict[str, Any], value: str) -> None:
    _set(slo, "cost", value)


_CHANGE: Final = {
    "rate": _change_rate,
    "accuracy": _change_accuracy,
    "p95": _change_latency,
    "cost": _change_cost,
}
