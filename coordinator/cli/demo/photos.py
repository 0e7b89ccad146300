"""The demo's input and its answer: photos of signs whose text is known, and how much of it was read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, quantiles
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tiermesh.errors import TiermeshError, Unsupported


@dataclass(frozen=True, slots=True)
class PhotoText:
    """What came out.

    `accuracy` is the mean over photos of the share of characters read right, as the variants' accuracy was measured;
    `characters` are those on the photos. The latency is from acceptance at a source to the end at a sink, which are on
    one machine and so on one clock; the rate is that of the ends. `errors` says why requests ended without a result,
    `wrong_form` which results are not what the workflow promises.
    """

    results: int
    errors: Sequence[str]
    characters: int
    accuracy: float
    rate_rps: float
    latency_ms: Mapping[str, float]
    wrong_form: Sequence[str]


def render(folders: Sequence[Path], count: int, seed: int) -> dict[str, list[str]]:
    """Write photos into each device's folder, `count` in all; returns their lines of text by name."""
    try:
        from variants.data import render_signs
    except ImportError as error:
        raise Unsupported(
            "the demo's photos cannot be rendered here",
            why=str(error),
            fix="Run it in a checkout of Tiermesh: make demo",
        ) from None
    truth: dict[str, list[str]] = {}
    for number, folder in enumerate(folders):
        share = count * (number + 1) // len(folders) - count * number // len(folders)
        for old in folder.glob("*.jpg"):
            old.unlink()
        for sign in render_signs(folder, share, seed + number):
            name = f"{folder.parent.parent.name}-{sign.name}"
            (folder / sign.name).rename(folder / name)
            truth[name] = sign.text
        (folder / "truth.json").unlink()
    return truth


def read(files: Iterable[Path], run: str, truth: Mapping[str, Sequence[str]]) -> PhotoText:
    """Compare the lines of a run in the sinks' files with what is on the photos."""
    from variants.data.scoring import character_accuracy

    lines = [line for file in files if file.exists() for line in _lines(file, run)]
    results = [line for line in lines if line.get("outcome") == "result"]
    found = [(line, _wrong_form(line, truth)) for line in results]
    right = [line for line, why in found if why is None]
    scores = [character_accuracy(truth[_photo(r)], r["payload"]["text"]) for r in right]
    return PhotoText(
        results=len(results),
        errors=[
            str(line.get("error") or "no reason given")
            for line in lines
            if line.get("outcome") == "error"
        ],
        characters=sum(len("".join(truth[_photo(r)])) for r in right),
        accuracy=fmean(scores) if scores else 0.0,
        rate_rps=_rate([line["finished_at"] for line in results]),
        latency_ms=_percentiles([1000 * (r["finished_at"] - r["accepted_at"]) for r in results]),
        wrong_form=[why for _, why in found if why is not None],
    )


def _rate(times: Sequence[float]) -> float:
    span = max(times, default=0.0) - min(times, default=0.0)
    return (len(times) - 1) / span if span > 0 else 0.0


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    if len(values) < 2:
        return dict.fromkeys(("p50", "p95", "p99"), values[0]) if values else {}
    cuts = quantiles(values, n=100, method="inclusive")
    return {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98]}


def _lines(file: Path, run: str) -> list[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
    except ValueError as error:
        raise TiermeshError(f"{file} is not JSON lines", why=str(error)) from None
    return [line for line in lines if line.get("run") == run]


def _photo(line: Mapping[str, Any]) -> str:
    return str(line.get("name", "")).rsplit("/", 1)[-1]


class _Signs(msgspec.Struct):
    """What the workflow promises of a photo: for each line its text, how sure that is, and where it stands."""

    text: list[str]
    scores: list[Annotated[float, Meta(ge=0, le=1)]]
    boxes: list[list[tuple[float, float]]]


def _wrong_form(line: Mapping[str, Any], truth: Mapping[str, Sequence[str]]) -> str | None:
    """None when a result is what the workflow promises."""
    if _photo(line) not in truth:
        return f"{line.get('id')}: there is no photo {line.get('name')!r}"
    try:
        signs = msgspec.convert(line.get("payload"), _Signs)
    except msgspec.ValidationError as error:
        return f"{line.get('id')}: {error}"
    text, scores, boxes = len(signs.text), len(signs.scores), len(signs.boxes)
    if not text == scores == boxes:
        return f"{line.get('id')}: {text} texts, {scores} scores, {boxes} boxes"
    return None
