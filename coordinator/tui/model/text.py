"""Lines of styled text, and how values are written. All text from outside passes through `safe`."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from rich.cells import cell_len, set_cell_size

SAFE_CHARS: Final = 400
BLOCKS: Final = " ▁▂▃▄▅▆▇█"
EIGHTHS: Final = " ▏▎▍▌▋▊▉"
UNKNOWN: Final = "–"
_REORDERING: Final = frozenset({"R", "AL", "AN"})


class Run(NamedTuple):
    """Some text in one style. `role` is words that a theme gives looks to, such as ``bad bold``."""

    text: str
    role: str = ""


Line: TypeAlias = tuple[Run, ...]
Align: TypeAlias = Literal["<", ">"]


class Painting(Protocol):
    """Lines to show, in cells; a line is asked for when it becomes visible."""

    @property
    def width(self) -> int:
        """Cells of the widest line."""
        ...

    @property
    def height(self) -> int:
        """How many lines there are."""
        ...

    def line(self, y: int) -> Line:
        """Line `y`, from 0."""
        ...


class Lines:
    """A painting of lines that are there already."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines

    @property
    def width(self) -> int:
        """Cells of the widest line."""
        return max((width(line) for line in self.lines), default=0)

    @property
    def height(self) -> int:
        """How many lines there are."""
        return len(self.lines)

    def line(self, y: int) -> Line:
        """Line `y`, from 0."""
        return self.lines[y]


def safe(text: object, limit: int = SAFE_CHARS) -> str:
    """`text` as one line that shows what it is made of and moves nothing else.

    Control, invisible and combining characters are written as escapes, and so are letters of scripts that a terminal
    may set from right to left, which would move the cells beside them.
    """
    shown = "".join(_shown(c) for c in str(text)[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _shown(char: str) -> str:
    if " " <= char <= "~":
        return char
    if char in "\n\t\r":
        return " "
    harmless = char.isprintable() and not unicodedata.combining(char)
    if harmless and unicodedata.bidirectional(char) not in _REORDERING and cell_len(char) > 0:
        return char
    return char.encode("unicode_escape").decode()


def width(line: Line) -> int:
    """Cells that a line takes."""
    return sum(cell_len(run.text) for run in line)


def fit(text: str, cells: int, align: Align = "<") -> str:
    """`text` in exactly `cells` cells, cut with an ellipsis or padded."""
    length = len(text) if text.isascii() else cell_len(text)
    if length > cells:
        return set_cell_size(text, cells - 1) + "…" if cells > 0 else ""
    gap = " " * (cells - length)
    return gap + text if align == ">" else text + gap


def clip(line: Iterable[Run], cells: int) -> Line:
    """A line cut to `cells` cells."""
    kept: list[Run] = []
    left = cells
    for run in line:
        length = cell_len(run.text)
        if length <= left:
            kept.append(run)
            left -= length
            continue
        if left > 0:
            kept.append(Run(fit(run.text, left), run.role))
        break
    return tuple(kept)


def wrap(text: str, cells: int) -> list[str]:
    """`text` in lines of at most `cells` cells, broken at blanks where there are some."""
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if cell_len(joined) <= cells:
            line = joined
            continue
        if line:
            lines.append(line)
        line = word
        while cell_len(line) > cells:
            lines.append(line[:cells])
            line = line[cells:]
    return [*lines, line] if line or not lines else lines


def spread(left: Line, right: Line, cells: int) -> Line:
    """Two parts at the two ends of a line; the left one gives way."""
    room = cells - width(right)
    shown = clip(left, max(room - 1, 0))
    return (*shown, Run(" " * max(room - width(shown), 0)), *right)


# --- pictures of numbers -----------------------------------------------------------------------------------------


def bar(share: float | None, cells: int, mark: float | None = None) -> str:
    """A bar of `cells` cells, full at 1; `mark` is where a limit or a prediction lies."""
    if share is None:
        filled = "·" * cells
    else:
        eighths = round(min(max(share, 0.0), 1.0) * cells * 8)
        full, part = divmod(eighths, 8)
        filled = "█" * full + (EIGHTHS[part] if part else "")
        filled += "░" * (cells - len(filled))
    if mark is None or cells == 0:
        return filled
    at = min(max(round(mark * cells), 0), cells - 1)
    return filled[:at] + "┃" + filled[at + 1 :]


def spark(values: Sequence[float], cells: int, top: float = 1.0) -> str:
    """The newest values as little columns, the newest at the right, full at `top`."""
    shown = [BLOCKS[min(max(round(v / top * 8), 1), 8)] for v in values[-cells:]]
    return " " * (cells - len(shown)) + "".join(shown)


# --- numbers -----------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 3) -> str:
    """A number to about three digits, without an exponent."""
    if value is None:
        return UNKNOWN
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:.{max(digits - whole, 0)}f}" if value else "0"


def percent(share: float | None, digits: int = 0) -> str:
    """A share, 0 to 1, in percent."""
    return UNKNOWN if share is None else f"{share:.{digits}%}"


def milliseconds(value: float | None) -> str:
    """Milliseconds, in seconds from ten seconds on."""
    if value is None:
        return UNKNOWN
    if value >= 10_000:
        return f"{value / 1000:.1f} s"
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"


def size(value: float | None) -> str:
    """Bytes, for people."""
    if value is None:
        return UNKNOWN
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            shown = value / scale
            return f"{shown:.0f} {unit}" if shown >= 10 else f"{shown:.1f} {unit}"
    return f"{value:.0f} B"


def age(seconds: float | None) -> str:
    """How long ago, in one unit."""
    if seconds is None:
        return UNKNOWN
    for unit, scale in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= scale:
            return f"{seconds / scale:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def count(number: int, noun: str) -> str:
    """So many of something."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def usd(value: float | None) -> str:
    """US dollars per hour."""
    return UNKNOWN if value is None else f"{value:.4g}"
