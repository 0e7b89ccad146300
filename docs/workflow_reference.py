"""The page about the workflow file, from its JSON Schema; `keys.toml` has a sentence for each key."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any, Final

from tiermesh.documents import workflow

KINDS: Final = ("source", "model", "map", "filter", "join", "aggregate", "union", "sink")
UNITS: Final = re.compile(r"\(((?:[A-Za-z/%]+\|?)+)\)\\s\*\$$")
HEAD: Final = """\
# Workflow file

A workflow file is YAML. It names the workflow, states its SLO, and lists its stages as a directed acyclic graph.
Unknown keys are errors. A quantity is written with its unit: `12/s`, `93 %`, `900 ms`, `0.40 USD/h`.

The JSON Schema is `proto/tiermesh/json_schemas/workflow.schema.json`. Editors use it to complete and check the file.
To use it with the YAML language server, begin the file with
`# yaml-language-server: $schema=PATH/workflow.schema.json`.

```yaml
workflow: read-signs
slo:
  rate: 4/s
  accuracy: {metric: character_accuracy, dataset: signs, at_least: 93 %}
  latency: {p95: 6 s}
  raw_data_stays_in: [edge, hub]
stages:
  photos:    {source: files, path: signs/, rate: 4/s}
  detect:    {model: ocr-detect, from: photos}
  rotate:    {model: ocr-rotate, from: detect}
  recognise: {model: ocr-recognise, from: rotate}
  text:      {sink: jsonl, path: out/text.jsonl, from: recognise}
```
"""


class Reference:
    """The schema, and the sentences of `keys.toml`: the most specific one counts."""

    def __init__(self, schema: dict[str, Any], sentences: dict[str, str]) -> None:
        self._schema = schema
        self._sentences = sentences

    def page(self) -> str:
        """The whole page.

        Raises:
            KeyError: a key of the schema has no sentence in `keys.toml`.
        """
        slo = self._definition(self._schema["properties"]["slo"])
        accuracy = self._definition(slo["properties"]["accuracy"]["anyOf"][-1])
        parts = [HEAD.rstrip(), "## Top level", self._table(self._schema, "workflow")]
        parts += ["## `slo`", self._told("slo"), self._table(slo, "slo")]
        parts += [
            "### `slo.accuracy`",
            self._told("slo.accuracy"),
            self._table(accuracy, "accuracy"),
        ]
        parts += ["## Stages", self._told("stages")]
        for reference in self._schema["properties"]["stages"]["additionalProperties"]["anyOf"]:
            parts += self._stage(self._definition(reference))
        return "\n\n".join(parts) + "\n"

    def _stage(self, stage: dict[str, Any]) -> list[str]:
        (kind, *_) = [kind for kind in KINDS if kind in stage["properties"]]
        title = f"{kind}: {_value(stage['properties'][kind])}" if _is_named(stage, kind) else kind
        told = " ".join(stage.get("description", "").split())
        return [f"### `{title}`", told, self._table(stage, kind, title)]

    def _table(self, described: dict[str, Any], kind: str, title: str = "") -> str:
        rows = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
        required = described.get("required", [])
        for key in sorted(described["properties"], key=lambda k: (k not in required, k != kind)):
            body = described["properties"][key]
            default = "required" if key in required else _default(body)
            told = body.get("description") or self._told(f"{title}.{key}", f"{kind}.{key}", key)
            rows.append(f"| `{key}` | {self._type(body)} | {default} | {told} |")
        return "\n".join(rows)

    def _type(self, body: dict[str, Any]) -> str:
        if "anyOf" in body:
            options = [self._type(one) for one in body["anyOf"] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(options))
        if "$ref" in body:
            return f"[{body['$ref'].rpartition('/')[2]}](#{_place(body['$ref'])})"
        if "enum" in body:
            return ", ".join(f"`{value}`" for value in body["enum"])
        if body.get("type") == "array":
            return f"list of {self._type(body['items'])}s"
        if body.get("type") == "object":
            return "mapping"
        return _unit(body) or str(body.get("type", "any"))

    def _told(self, *keys: str) -> str:
        for key in keys:
            if key in self._sentences:
                return self._sentences[key]
        raise KeyError(f"docs/reference/keys.toml has no sentence for any of: {', '.join(keys)}")

    def _definition(self, reference: dict[str, Any]) -> dict[str, Any]:
        return self._schema["$defs"][reference["$ref"].rpartition("/")[2]]


def _is_named(stage: dict[str, Any], kind: str) -> bool:
    return kind in ("source", "sink") and len(_choices(stage["properties"][kind])) == 1


def _choices(body: dict[str, Any]) -> list[Any]:
    return body.get("enum", [body["const"]] if "const" in body else [])


def _value(body: dict[str, Any]) -> str:
    return str(_choices(body)[0])


def _place(reference: str) -> str:
    return {"Slo": "slo", "AccuracyAsk": "sloaccuracy"}.get(reference.rpartition("/")[2], "stages")


def _default(body: dict[str, Any]) -> str:
    default = body.get("default")
    if default is None or isinstance(default, (dict, list)):
        return "none"
    return f"`{json.dumps(default)}`"


def _unit(body: dict[str, Any]) -> str | None:
    examples, units = body.get("examples"), UNITS.search(body.get("pattern", ""))
    if not examples or units is None:
        return None
    return f"quantity in {', '.join(units[1].split('|'))}, such as `{examples[0]}`"


def page(folder: Path) -> str:
    """The page, with the sentences of `folder`/keys.toml."""
    sentences = tomllib.loads((folder / "keys.toml").read_text())
    return Reference(workflow.json_schema(), sentences).page()
