"""The diagram of the loop (`docs/loop.svg`): its steps, and the folders that carry each out."""

from __future__ import annotations

from typing import Final, NamedTuple


class Step(NamedTuple):
    """A step of the loop, with the paths on a device and at the coordinator; an empty one is left out."""

    name: str
    device: str
    coordinator: str


STEPS: Final = (
    Step("discover", "agent/discovery.py", "coordinator/discovery/"),
    Step("describe", "agent/profiling/fingerprint/", "coordinator/fleet/"),
    Step("profile", "agent/profiling/", "coordinator/profiling/"),
    Step("plan", "", "coordinator/planning/"),
    Step("roll out", "agent/rollout/", "coordinator/rollout/"),
    Step("serve", "agent/serving/", ""),
    Step("observe", "agent/telemetry.py", "coordinator/telemetry/"),
)
REPLAN: Final = "coordinator/replanning/"

BOX: Final = (180, 44)
GAP: Final = 20
LEFT: Final = 20
ROWS: Final = {"device": 64, "step": 20, "coordinator": 140}
HEIGHT: Final = 250


def svg() -> str:
    """The diagram: one column a step; above what runs on a device, below what runs at the coordinator."""
    width = 2 * LEFT + len(STEPS) * (BOX[0] + GAP) - GAP
    body = [part for i, step in enumerate(STEPS) for part in _column(i, step)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{width}" height="{HEIGHT}" fill="#ffffff"/>\n'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#555555"/></marker></defs>\n'
        + "\n".join([*body, *_replan(), ""])
        + "</svg>\n"
    )


def _column(index: int, step: Step) -> list[str]:
    left = _left(index)
    parts = [
        _text(left + BOX[0] / 2, ROWS["step"] + 16, step.name, "font-weight='bold' font-size='15'")
    ]
    if index + 1 < len(STEPS):
        parts.append(
            _line(left + BOX[0] - 25, ROWS["step"] + 11, _left(index + 1) + 25, ROWS["step"] + 11)
        )
    for owner, fill, path in (
        ("device", "#e6f2ea", step.device),
        ("coordinator", "#e8ecf8", step.coordinator),
    ):
        if path:
            parts += _box(left, ROWS[owner], fill, owner, path)
    return parts


def _replan() -> list[str]:
    """The way back from observe to plan."""
    names = [step.name for step in STEPS]
    start = _left(names.index("observe")) + BOX[0] / 2
    end = _left(names.index("plan")) + BOX[0] / 2
    low, bottom = ROWS["coordinator"] + BOX[1], 222
    path = f"M{start:g} {low} V{bottom} H{end:g} V{low + 4}"
    return [
        f'<path d="{path}" fill="none" stroke="#555555" marker-end="url(#tip)"/>',
        _text((start + end) / 2, bottom - 8, f"replan for a named reason: {REPLAN}", ""),
    ]


def _box(left: float, top: float, fill: str, owner: str, path: str) -> list[str]:
    middle = left + BOX[0] / 2
    return [
        f'<rect x="{left:g}" y="{top:g}" width="{BOX[0]}" height="{BOX[1]}" rx="4" fill="{fill}" stroke="#999999"/>',
        _text(middle, top + 17, owner, "fill='#666666' font-size='10'"),
        _text(middle, top + 33, path, "font-size='10' font-family='monospace'"),
    ]


def _left(index: int) -> float:
    return LEFT + index * (BOX[0] + GAP)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="#555555" '
        'marker-end="url(#tip)"/>'
    )


def _text(x: float, y: float, text: str, style: str) -> str:
    style = style.replace("'", '"')
    return f'<text x="{x:g}" y="{y:g}" text-anchor="middle" {style}>{text}</text>'
