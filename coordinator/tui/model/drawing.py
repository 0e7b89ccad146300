"""The board drawn: cards in a grid, and between the rows the lanes, each source with a track of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from coordinator.fleet.lifecycle import DeviceState
from coordinator.tui.model import text as t
from coordinator.tui.model.cards import card_lines
from coordinator.tui.model.fleet import STATES
from coordinator.tui.model.grid import DOWN, UP, CellGrid
from coordinator.tui.model.placement import Board, Card, CardLink, PlacementColumn, StageRow
from coordinator.tui.model.routing import LaneBundle, Place, Port, ports_for, ports_of, take_tracks
from coordinator.tui.model.text import Line

GUTTER: Final = 11
CARD_MIN: Final = 16
CARD_MAX: Final = 34
GAP: Final = 1
HEAD_LINES: Final = 2
LANE_ROLES: Final = 5


@dataclass(frozen=True, slots=True)
class Drawing:
    """The lines, and where each card is, so that a click and a cursor find it."""

    lines: Sequence[Line]
    places: Mapping[str, Place]

    @property
    def width(self) -> int:
        """Cells of the widest line."""
        return max((t.width(line) for line in self.lines), default=0)

    @property
    def height(self) -> int:
        """How many lines there are."""
        return len(self.lines)

    def line(self, y: int) -> Line:
        """Line `y`."""
        return self.lines[y]

    def card_at(self, x: int, y: int) -> str | None:
        """The id of the card that covers a cell."""
        for card, place in self.places.items():
            if place.x <= x < place.x + place.width and place.y <= y < place.y + place.height:
                return card
        return None


def draw(board: Board, cells: int, *, slim: bool = False, selected: str | None = None) -> Drawing:
    """Draw a board into a width of `cells`; it becomes wider where its cards do not fit. `slim` cards are lower."""
    return _Drawer(board, cells, slim, selected).drawing()


class _Drawer:
    def __init__(self, board: Board, cells: int, slim: bool, selected: str | None) -> None:
        self.board, self.slim, self.selected = board, slim, selected
        self.level = {row.name: i for i, row in enumerate(board.rows)}
        self.cards = {card.id: card for card in board.cards}
        self.colours = {id_: i % LANE_ROLES for i, id_ in enumerate(self.cards)}
        self.channels = self._channels()
        self.gutter = GUTTER + 2 * len(self.channels)
        self.slots = self._slots()
        room = cells - self.gutter - GAP * len(self.slots)
        count = sum(self.slots.values())
        self.card_width = min(max(room // max(count, 1), CARD_MIN), CARD_MAX)
        self.column_x = self._column_x()
        self.width = max(self._right(), 1)

    def drawing(self) -> Drawing:
        heights = [self._row_height(row) for row in self.board.rows]
        places = self._places([0] * len(heights))
        gaps = self._gaps(places)
        tops, y = list[int](), HEAD_LINES
        for i, height in enumerate(heights):
            tops.append(y)
            y += height + (gaps[i][1] if i < len(gaps) else 0)
        places = self._places(tops)
        grid = CellGrid(self.width, y)
        self._head(grid)
        for i, (bundles, _) in enumerate(gaps):
            self._draw_gap(grid, bundles, tops[i] + heights[i], tops[i + 1] - 1)
        self._draw_channels(grid, tops, heights)
        for row, top in zip(self.board.rows, tops, strict=True):
            self._draw_row(grid, row, top, places)
        return Drawing(grid.lines(), places)

    # --- where things are ----------------------------------------------------------------------------------------

    def _slots(self) -> dict[str, int]:
        """How many cards stand side by side in each column."""
        return {
            column.key: max(
                (len(self.board.cells.get((row.name, column.key), ())) for row in self.board.rows),
                default=1,
            )
            or 1
            for column in self.board.columns
        }

    def _column_x(self) -> dict[str, int]:
        found: dict[str, int] = {}
        x = self.gutter
        for column in self.board.columns:
            found[column.key] = x
            x += self.slots[column.key] * self.card_width + GAP
        return found

    def _right(self) -> int:
        return self.gutter + sum(n * self.card_width + GAP for n in self.slots.values())

    def _places(self, tops: Sequence[int]) -> dict[str, Place]:
        places: dict[str, Place] = {}
        for row, top in zip(self.board.rows, tops, strict=True):
            for column in self.board.columns:
                for i, card in enumerate(self.board.cells.get((row.name, column.key), ())):
                    x = self.column_x[column.key] + i * self.card_width
                    height = self._card_height(card)
                    width = self.card_width - (1 if self.slots[column.key] > 1 else 0)
                    places[card.id] = Place(x, top, width, height)
        return places

    def _card_height(self, card: Card) -> int:
        return 1 if card.slim else 2 if self.slim else 4

    def _row_height(self, row: StageRow) -> int:
        cells = (self.board.cells.get((row.name, c.key), ()) for c in self.board.columns)
        return max((self._card_height(card) for cell in cells for card in cell), default=1)

    # --- lanes ---------------------------------------------------------------------------------------------------

    def _channels(self) -> dict[str, int]:
        """Cards whose lanes jump over rows, each with a cell beside the rows through which they go down."""
        jumping = dict.fromkeys(
            link.source
            for link in self.board.links
            if self._level_of(link.target) - self._level_of(link.source) > 1
        )
        return {card: GUTTER - 1 + 2 * i for i, card in enumerate(jumping)}

    def _level_of(self, card: str) -> int:
        return self.level[self.cards[card].stage]

    def _gaps(self, places: Mapping[str, Place]) -> list[tuple[list[LaneBundle], int]]:
        """Per gap between two rows: its bundles, and how many lines it takes."""
        gaps: list[list[LaneBundle]] = []
        for i in range(len(self.board.rows) - 1):
            bundles = self._bundles(i, places)
            take_tracks(bundles)
            gaps.append(bundles)
        return [(b, 1 + max((x.track for x in b), default=0)) for b in gaps]

    def _bundles(self, gap: int, places: Mapping[str, Place]) -> list[LaneBundle]:
        entries = self._entries(gap, places)
        ports = ports_for(entries, places)
        bundles: dict[tuple[str, int], LaneBundle] = {}
        owners = {card: i for i, card in enumerate(self.cards)}
        for source, target, x, link in entries:
            bundle = bundles.setdefault(
                (source, x), LaneBundle(owners[source], x, self._lane_role(source, target))
            )
            share = t.percent(link.share)
            rate = f" {t.number(link.rate_rps, 2)}/s" if link.rate_rps is not None else ""
            bundle.down.append(Port(ports[source, target], share, share + rate))
        self._into_channels(gap, places, bundles, owners)
        return list(bundles.values())

    def _entries(
        self, gap: int, places: Mapping[str, Place]
    ) -> list[tuple[str, str, int, CardLink]]:
        """The links that end below a gap: source, target, the cell where they come from, and the link."""
        found: list[tuple[str, str, int, CardLink]] = []
        for link in self.board.links:
            if self._level_of(link.target) != gap + 1:
                continue
            adjacent = self._level_of(link.source) == gap
            x = places[link.source].middle if adjacent else self.channels[link.source]
            found.append((link.source, link.target, x, link))
        return sorted(found, key=lambda entry: entry[2])

    def _into_channels(
        self,
        gap: int,
        places: Mapping[str, Place],
        bundles: dict[tuple[str, int], LaneBundle],
        owners: Mapping[str, int],
    ) -> None:
        for card, x in self.channels.items():
            if self._level_of(card) == gap:
                middle = places[card].middle
                bundle = bundles.setdefault(
                    (card, middle), LaneBundle(owners[card], middle, self._lane_role(card, card))
                )
                bundle.down.append(Port(x))

    def _lane_role(self, source: str, target: str) -> str:
        if self.cards[source].lost or self.cards[target].lost:
            return "bad broken"
        strong = self.selected in (source, target)
        return f"lane{self.colours[source]}{' bold' if strong else ''}"

    def _draw_gap(
        self, grid: CellGrid, bundles: Sequence[LaneBundle], top: int, bottom: int
    ) -> None:
        for bundle in bundles:
            y = top + max(bundle.track - 1, 0)
            if not bundle.straight:
                left, right = bundle.span
                grid.horizontal(y, left, right, bundle.role, bundle.owner)
        for bundle in bundles:
            y = top + max(bundle.track - 1, 0)
            grid.vertical(bundle.x, top, y, bundle.role, bundle.owner)
            grid.joint(bundle.x, top, UP, bundle.role, bundle.owner)
            for port in bundle.down:
                grid.vertical(port.x, y, bottom, bundle.role, bundle.owner)
        for bundle in bundles:
            self._draw_ends(grid, bundle, bottom, ports_of(bundles))

    def _draw_ends(self, grid: CellGrid, bundle: LaneBundle, y: int, ports: Sequence[int]) -> None:
        for port in bundle.down:
            if not port.short:
                grid.joint(port.x, y, DOWN, bundle.role, bundle.owner)
                continue
            grid.text(port.x, y, "▼", bundle.role)
            room = min((x for x in ports if x > port.x), default=self.width) - port.x - 1
            said = next((s for s in (port.full, port.short) if len(s) <= room), "")
            grid.text(port.x + 1, y, said, bundle.role)

    def _draw_channels(self, grid: CellGrid, tops: Sequence[int], heights: Sequence[int]) -> None:
        for card, x in self.channels.items():
            last = max(
                self._level_of(link.target) for link in self.board.links if link.source == card
            )
            role, owner = self._lane_role(card, card), list(self.cards).index(card)
            begin = self._level_of(card) + 1
            for level in range(begin, last):
                bottom = (
                    tops[level + 1] - 1 if level + 1 < last else tops[level] + heights[level] - 1
                )
                grid.vertical(x, tops[level], bottom, role, owner)
                grid.joint(x, tops[level], UP, role, owner)
                grid.joint(x, bottom, DOWN, role, owner)

    # --- heads and cards -----------------------------------------------------------------------------------------

    def _head(self, grid: CellGrid) -> None:
        for tier, of in groupby(self.board.columns, key=lambda column: column.tier):
            columns = list(of)
            x = self.column_x[columns[0].key]
            last = columns[-1]
            right = self.column_x[last.key] + self.slots[last.key] * self.card_width - 1
            grid.text(x, 0, f" {t.safe(tier)} ".center(right - x, "─"), "tier")
        for column in self.board.columns:
            self._column_head(grid, column)

    def _column_head(self, grid: CellGrid, column: PlacementColumn) -> None:
        x, cells = self.column_x[column.key], self.slots[column.key] * self.card_width - 1
        sign, role = STATES[column.state]
        told = "" if column.state is DeviceState.READY and not column.why else f" {column.state}"
        text = f"{sign} {t.safe(column.title)}{told}"
        grid.text(x, 1, t.fit(text, cells), f"{role} bold")
        if column.note and len(text) + len(column.note) < cells:
            grid.text(x + len(text) + 1, 1, column.note, "dim")

    def _draw_row(
        self, grid: CellGrid, row: StageRow, top: int, places: Mapping[str, Place]
    ) -> None:
        grid.text(0, top, t.fit(t.safe(row.name), GUTTER - 1), "bold")
        if self._row_height(row) > 1:
            told = row.model if row.model and row.model != row.name else row.kind
            for i, part in enumerate(_broken(told, GUTTER - 2)[: self._row_height(row) - 1]):
                grid.text(0, top + 1 + i, part, "dim")
        for card in self.cards.values():
            if card.stage == row.name:
                self._draw_card(grid, card, places[card.id])

    def _draw_card(self, grid: CellGrid, card: Card, place: Place) -> None:
        chosen = card.id == self.selected
        surface = "card-chosen" if chosen else "card-lost" if card.lost else "card"
        edge = "✗" if card.lost else "▐" if chosen else "▏"
        accent = "bad" if card.lost else f"lane{self.colours[card.id]}"
        cells = place.width - 2
        for i, line in enumerate(card_lines(card, cells, slim=self.slim)):
            grid.text(place.x, place.y + i, " " * (place.width - 1), surface)
            grid.text(place.x, place.y + i, edge, f"{accent} {surface} bold")
            x = place.x + 1
            for text, role in line:
                grid.text(x, place.y + i, text, f"{role} {surface}".strip())
                x += len(text)


def _broken(text: str, cells: int) -> list[str]:
    """A name in pieces that fit, broken at its hyphens where it has some."""
    shown = t.safe(text)
    return t.wrap(shown.replace("-", "- "), cells) if len(shown) > cells else [shown]
