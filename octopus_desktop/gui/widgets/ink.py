"""Colours for widgets that paint themselves: code, differences, the timeline, charts. The grounds and texts are the
theme's; the rest is added for what only these widgets show. Follows the widget's palette, so
that a change of theme needs no wiring; knows nothing of pages, the store or the daemon.

Every text colour has a contrast of at least 4.5 to 1 against the ground it is used on (WCAG 2.2, 1.4.3); every mark
that carries meaning at least 3 to 1 (1.4.11). A test computes both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtGui import QColor, QFont, QFontDatabase, QPalette
from PySide6.QtWidgets import QWidget


@dataclass(frozen=True, slots=True, kw_only=True)
class Ink:
    """One set of colours as ``#rrggbb``. ``syntax``: the kind of token to its colour."""

    ground: str
    text: str
    muted: str
    line: str
    gutter: str
    added: str
    added_mark: str
    removed: str
    removed_mark: str
    hunk: str
    match: str
    current: str
    accent: str
    syntax: dict[str, str]
    severity: dict[str, str]


LIGHT = Ink(
    ground="#ffffff",
    text="#1b2331",
    muted="#545f71",
    line="#d6dbe4",
    gutter="#f4f5f8",
    added="#dff3e4",
    added_mark="#1a6b35",
    removed="#fbe3e1",
    removed_mark="#a8271f",
    hunk="#e6edf7",
    match="#ffe08a",
    current="#eef3fa",
    accent="#3a52c2",
    syntax={
        "keyword": "#7a3fc4",
        "string": "#0a5c36",
        "number": "#0550ae",
        "comment": "#59636e",
        "function": "#8a3b00",
        "decorator": "#953800",
        "builtin": "#0b5f6b",
        "section": "#0550ae",
        "error": "#a8271f",
    },
    severity={"high": "#b3261e", "medium": "#8a5200", "low": "#0b62b8", "info": "#59636e"},
)
DARK = Ink(
    ground="#1b1f27",
    text="#e7eaf0",
    muted="#a6afbe",
    line="#333a47",
    gutter="#222732",
    added="#123a22",
    added_mark="#7fd99a",
    removed="#4a1d1c",
    removed_mark="#ff9f97",
    hunk="#22303f",
    match="#6b5200",
    current="#27304f",
    accent="#95a9ff",
    syntax={
        "keyword": "#cbaaff",
        "string": "#8fd6a0",
        "number": "#85c7ff",
        "comment": "#a0aab4",
        "function": "#ffc58a",
        "decorator": "#ffb28a",
        "builtin": "#7fd8d8",
        "section": "#85c7ff",
        "error": "#ff9f97",
    },
    severity={"high": "#ff9f97", "medium": "#f2bd63", "low": "#7cbcff", "info": "#a0aab4"},
)

# Okabe and Ito's set for colour-blind readers (2008), one colour a step; "wait" is grey and hatched as well.
STEP_COLOURS: dict[str, str] = {
    "download": "#56b4e9",
    "load": "#0072b2",
    "train": "#009e73",
    "evaluate": "#f0e442",
    "filter": "#cc79a7",
    "upload": "#e69f00",
    "wait": "#9aa3ad",
    "aggregate": "#d55e00",
}
OTHER_STEP = "#7d8894"

# Lines of a chart: (on light, on dark). The federation's is dashed, and each has marks of its own shape as well.
OWN_LINE = ("#3a52c2", "#95a9ff")
FEDERATION_LINE = ("#b4530a", "#f2a65e")
LIVE_LINE = ("#117a65", "#5fcfb4")
SILO_LINES = (
    ("#9b2c87", "#e58fd4"),
    ("#7a6a00", "#d9c65a"),
    ("#0b7285", "#6cc7d8"),
    ("#6b4f3a", "#cfab8d"),
    ("#4d7a1f", "#a9cf73"),
    ("#6741d9", "#b9a3ff"),
)
MANY_LINE = ("#8a93a3", "#6d7787")  # of each silo, where there are more than colours
LOOKED_AT_LINE = SILO_LINES[0]


def silo_line(silo: str, silos: Sequence[str], *, looked_at: bool = False) -> tuple[str, str]:
    """The colours of another silo's line: one each while there are enough, else one for all but the one looked at."""
    if silo in silos and len(silos) <= len(SILO_LINES):
        return SILO_LINES[list(silos).index(silo)]
    return LOOKED_AT_LINE if looked_at else MANY_LINE


def is_dark(widget: QWidget) -> bool:
    """Whether the widget's palette is a dark one."""
    return widget.palette().color(QPalette.ColorRole.Base).lightness() < 128


def ink_of(widget: QWidget) -> Ink:
    return DARK if is_dark(widget) else LIGHT


def fixed_font(points: float = 0) -> QFont:
    """The platform's fixed-width font; ``points`` 0 keeps its own size."""
    font = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
    if points:
        font.setPointSizeF(points)
    font.setStyleHint(QFont.StyleHint.Monospace)
    return font


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.2, relative luminance)."""

    def luminance(name: str) -> float:
        colour = QColor(name)
        parts = [colour.redF(), colour.greenF(), colour.blueF()]
        r, g, b = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def text_on(colour: str) -> str:
    """Black or white, whichever reads better on ``colour``."""
    return "#000000" if contrast(colour, "#000000") >= contrast(colour, "#ffffff") else "#ffffff"
