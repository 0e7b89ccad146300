"""Headerless CSV, JSON and YAML from a folder's files, with errors that name file, line and column."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import yaml

from tiermesh import ids
from tiermesh.errors import InvalidDocument

Kind = Literal["name", "number", "count"]


@dataclass(frozen=True, slots=True)
class ImportedRow:
    """A line of a table: its values by column, and where it is."""

    file: str
    line: int
    values: Mapping[str, Any]
    columns: Mapping[str, int]

    def __getitem__(self, column: str) -> Any:
        return self.values[column]

    def wrong(self, column: str, why: str) -> NoReturn:
        """Raise InvalidDocument at a column of this line."""
        damaged(self.file, self.line, self.columns.get(column, 1), why)


def damaged(file: str, line: int, column: int, why: str) -> NoReturn:
    """Raise InvalidDocument with the place; lines and columns count from 1."""
    raise InvalidDocument(
        f"{file}, line {line}, column {column}",
        why=why,
        fix="Correct the file, or take it from the published example again",
        path=file,
        line=line,
        column=column,
    )


def text_of(file: str, data: bytes) -> str:
    """The text of a UTF-8 file."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = error.start - (before.rfind(b"\n") + 1) + 1
        damaged(file, before.count(b"\n") + 1, column, "a byte here is not UTF-8")


def read_csv(file: str, data: bytes, columns: Mapping[str, Kind]) -> Iterator[ImportedRow]:
    """The rows of a CSV without a header; blank lines and one stray comma at the end are passed over."""
    reader = csv.reader(io.StringIO(text_of(file, data)), skipinitialspace=True)
    try:
        for fields in reader:
            cells = fields[:-1] if len(fields) == len(columns) + 1 and not fields[-1] else fields
            if any(cell.strip() for cell in cells):
                yield _row(file, reader.line_num, cells, columns)
    except csv.Error as error:
        damaged(file, reader.line_num, 1, str(error))


def _row(file: str, line: int, cells: list[str], columns: Mapping[str, Kind]) -> ImportedRow:
    starts = [1 + sum(len(cell) + 1 for cell in cells[:i]) for i in range(len(cells) + 1)]
    if len(cells) != len(columns):
        at = starts[len(columns)] if len(cells) > len(columns) else starts[-1] - 1
        expected = ", ".join(columns)
        damaged(file, line, at, f"{len(cells)} values where {len(columns)} are due: {expected}")
    places = dict(zip(columns, starts, strict=False))
    values = {
        column: _value(cell.strip(), kind, file, line, places[column])
        for (column, kind), cell in zip(columns.items(), cells, strict=True)
    }
    return ImportedRow(file, line, values, places)


def _value(cell: str, kind: Kind, file: str, line: int, column: int) -> str | float | int:
    if kind == "name":
        if re.fullmatch(ids.NAME_PATTERN.strip("^$"), cell) is None:
            damaged(file, line, column, f"{cell!r} is not a name (letters, digits, `.`, `_`, `-`)")
        return cell
    try:
        number = float(cell) if kind == "number" else int(cell)
    except ValueError:
        damaged(file, line, column, f"{cell!r} is not a {'whole ' * (kind == 'count')}number")
    if not math.isfinite(number) or number < 0:
        damaged(file, line, column, f"{cell} is not a number of zero or more")
    return number


def read_json(file: str, data: bytes) -> Any:
    """The value of a JSON file."""
    try:
        return json.loads(text_of(file, data))
    except json.JSONDecodeError as error:
        damaged(file, error.lineno, error.colno, error.msg)
    except RecursionError:
        damaged(file, 1, 1, "it is nested too deeply")


def read_yaml(file: str, data: bytes) -> Any:
    """The value of a YAML file; the word `None` means nothing, as it does in the files that JellyBean ships."""
    try:
        value = yaml.safe_load(text_of(file, data))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        damaged(file, line, column, error.problem or "not YAML")
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        damaged(file, 1, 1, str(error))
    return without_none(value)


def without_none(value: Any) -> Any:
    """The value with every string `None` turned into nothing."""
    if isinstance(value, dict):
        return {str(k): without_none(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list):
        return [without_none(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
    return None if value == "None" else value
