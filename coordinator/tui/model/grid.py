"""A grid of cells to draw on: text, and lines that join where they meet."""

from __future__ import annotations

from typing import Final

from rich.cells import cell_len

from coordinator.tui.model.text import Line, Run

UP: Final = 1
DOWN: Final = 2
LEFT: Final = 4
RIGHT: Final = 8
_JOINTS: Final = " ╵╷│╴╯╮┤╶╰╭├─┴┬┼"
_BROKEN: Final = {"│": "╎", "─": "╌"}


class CellGrid:
    """Cells, written once each frame. Text covers lines; where lines cross, the one downwards is drawn through."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self._chars = [[" "] * width for _ in range(height)]
        self._roles = [[""] * width for _ in range(height)]
        self._joints = [[0] * width for _ in range(height)]
        self._owners = [[-1] * width for _ in range(height)]

    def text(self, x: int, y: int, text: str, role: str = "") -> None:
        """Write text; what does not fit is cut. Wide characters take two cells."""
        if not 0 <= y < self.height:
            return
        chars, roles, joints = self._chars[y], self._roles[y], self._joints[y]
        for char in text:
            cells = 1 if char.isascii() else cell_len(char)
            if x + cells > self.width:
                return
            if x >= 0:
                chars[x], roles[x], joints[x] = char, role, 0
                for more in range(x + 1, x + cells):
                    chars[more], roles[more], joints[more] = "", role, 0
            x += cells

    def vertical(self, x: int, top: int, bottom: int, role: str, owner: int) -> None:
        """A line downwards, from `top` to `bottom`, both included."""
        for y in range(top, bottom + 1):
            bits = (UP if y > top else 0) | (DOWN if y < bottom else 0)
            self._join(x, y, bits, role, owner)

    def horizontal(self, y: int, left: int, right: int, role: str, owner: int) -> None:
        """A line across, from `left` to `right`, both included."""
        for x in range(left, right + 1):
            bits = (LEFT if x > left else 0) | (RIGHT if x < right else 0)
            self._join(x, y, bits, role, owner)

    def joint(self, x: int, y: int, bits: int, role: str, owner: int) -> None:
        """Open a cell of a line towards more sides."""
        self._join(x, y, bits, role, owner)

    def _join(self, x: int, y: int, bits: int, role: str, owner: int) -> None:
        if not (0 <= x < self.width and 0 <= y < self.height):
            return
        mine = self._owners[y][x]
        if mine not in (-1, owner):
            upright = UP | DOWN
            if not bits & upright:
                return
            self._joints[y][x] = 0
        self._joints[y][x] |= bits
        self._owners[y][x] = owner
        self._roles[y][x] = role

    def lines(self) -> list[Line]:
        """The grid as lines."""
        return [self._line(y) for y in range(self.height)]

    def _line(self, y: int) -> Line:
        runs: list[Run] = []
        text, role = "", ""
        for char, joint, here in zip(self._chars[y], self._joints[y], self._roles[y], strict=True):
            shown = char
            if joint:
                shown = _JOINTS[joint]
                if "broken" in here:
                    shown = _BROKEN.get(shown, shown)
            if here != role and text:
                runs.append(Run(text, role))
                text = ""
            role = here
            text += shown
        if text.rstrip() or role:
            runs.append(Run(text, role))
        return tuple(runs)
