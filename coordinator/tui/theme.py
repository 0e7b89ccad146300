"""How roles look. The hues are those of Okabe and Ito (2008), which people with any colour vision can tell apart.

What a hue says is said by a sign or a word, too.
"""

from __future__ import annotations

from typing import Final

from rich.style import Style
from textual.theme import Theme

DARK: Final = "tiermesh-dark"
LIGHT: Final = "tiermesh-light"

THEMES: Final = (
    Theme(
        name=DARK,
        primary="#56B4E9",
        secondary="#7A8CA8",
        accent="#E69F00",
        warning="#E69F00",
        error="#F0723C",
        success="#2FBF8F",
        foreground="#D8DEE6",
        background="#10141A",
        surface="#171C24",
        panel="#1E2530",
        dark=True,
        variables={"footer-key-foreground": "#56B4E9", "footer-background": "#171C24"},
    ),
    Theme(
        name=LIGHT,
        primary="#0072B2",
        secondary="#5A6B82",
        accent="#9A6700",
        warning="#9A6700",
        error="#B84300",
        success="#00785A",
        foreground="#1C232C",
        background="#FBFBF9",
        surface="#F0F1EE",
        panel="#E5E7E3",
        dark=False,
        variables={"footer-key-foreground": "#0072B2", "footer-background": "#E5E7E3"},
    ),
)

_DARK: Final = {
    "dim": "#76828F",
    "name": "#E8EDF2",
    "title": "bold #FFFFFF",
    "head": "#76828F",
    "tier": "#7FA6C9",
    "good": "#2FBF8F",
    "warn": "#E69F00",
    "bad": "#F0723C",
    "note": "#CC9FD8",
    "accent": "#56B4E9",
    "data": "#9CCBEB",
    "key": "bold #56B4E9",
    "tab": "#9AA6B2 on #1E2530",
    "tab-on": "bold #10141A on #56B4E9",
    "brand": "bold #56B4E9 on #1E2530",
    "strip": "#C7D0DA on #1E2530",
    "card": "on #1B222C",
    "card-chosen": "on #28405A",
    "card-lost": "on #33221C",
    "cursor": "on #28405A",
    "banner-bad": "bold #10141A on #F0723C",
    "banner-warn": "bold #10141A on #E69F00",
    "banner-good": "bold #10141A on #2FBF8F",
    "heat0": "on #14304A",
    "heat1": "on #1D4F73",
    "heat2": "#10141A on #5A9BC4",
    "heat3": "#10141A on #D9B24A",
    "heat4": "#10141A on #F0914A",
    "lane0": "#56B4E9",
    "lane1": "#E69F00",
    "lane2": "#CC79A7",
    "lane3": "#2FBF8F",
    "lane4": "#D9C84A",
    "broken": "",
    "bold": "bold",
    "italic": "italic",
}
_LIGHT: Final = _DARK | {
    "dim": "#66707C",
    "name": "#1C232C",
    "title": "bold #000000",
    "head": "#66707C",
    "tier": "#33658A",
    "good": "#00785A",
    "warn": "#8F5F00",
    "bad": "#B84300",
    "note": "#8A4A9E",
    "accent": "#0072B2",
    "data": "#005A8C",
    "key": "bold #0072B2",
    "tab": "#4C5866 on #E5E7E3",
    "tab-on": "bold #FFFFFF on #0072B2",
    "brand": "bold #0072B2 on #E5E7E3",
    "strip": "#1C232C on #E5E7E3",
    "card": "on #EDEFEB",
    "card-chosen": "on #CFE3F2",
    "card-lost": "on #F6DFD3",
    "cursor": "on #CFE3F2",
    "banner-bad": "bold #FFFFFF on #B84300",
    "banner-warn": "bold #FFFFFF on #8F5F00",
    "banner-good": "bold #FFFFFF on #00785A",
    "heat0": "on #DCEAF4",
    "heat1": "on #B4D3E8",
    "heat2": "#10141A on #7DB3D6",
    "heat3": "#10141A on #E8C66A",
    "heat4": "#10141A on #E88F55",
    "lane0": "#0072B2",
    "lane1": "#9A6700",
    "lane2": "#A0467A",
    "lane3": "#00785A",
    "lane4": "#75700A",
}


class Looks:
    """The styles of one theme; made once per role."""

    def __init__(self, *, dark: bool) -> None:
        self._words = _DARK if dark else _LIGHT
        self._made: dict[str, Style] = {"": Style.null()}

    def style(self, role: str) -> Style:
        """The style of a role's words, the later over the earlier."""
        style = self._made.get(role)
        if style is None:
            parts = (Style.parse(self._words[word] or "none") for word in role.split())
            style = self._made[role] = Style.combine(list(parts))
        return style


_LOOKS: Final = {True: Looks(dark=True), False: Looks(dark=False)}


def looks(*, dark: bool) -> Looks:
    """The styles for dark or light."""
    return _LOOKS[dark]
