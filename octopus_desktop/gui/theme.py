"""How everything looks: named colours for light and dark, the 8-pixel grid, one type scale, the style sheet.

Widgets ask for a colour by its role ("text", "accent", "danger") and never write one down. The platform's own style is
not used: Fusion with our palette looks the same wherever Qt runs. Knows no page and no data.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Final

import shiboken6
from PySide6.QtCore import QObject, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFont, QFontDatabase, QIcon, QPalette
from PySide6.QtWidgets import QAbstractButton, QApplication, QLabel, QWidget

from octopus_desktop.gui import icons
from octopus_desktop.gui.stylesheet import style_sheet

GRID: Final = 8  # every margin and gap is a multiple, or half of one
ICON_PX: Final = 16
TONES: Final = ("ok", "info", "warning", "danger", "neutral")

LIGHT: Final = {
    "window": "#F4F5F8",
    "surface": "#FFFFFF",
    "raised": "#FFFFFF",
    "sunken": "#EDEFF4",
    "rail": "#E9ECF2",
    "border": "#D6DBE4",
    "control": "#7E8899",
    "text": "#1B2331",
    "muted": "#545F71",
    "disabled": "#8D96A5",
    "accent": "#3A52C2",
    "accent_hover": "#2F45AC",
    "on_accent": "#FFFFFF",
    "accent_soft": "#E3E8FB",
    "link": "#3147B0",
    "selection": "#DCE3FA",
    "focus": "#3A52C2",
    "ok": "#17703A",
    "ok_soft": "#E0F3E6",
    "info": "#2150B0",
    "info_soft": "#E3ECFB",
    "warning": "#805200",
    "warning_soft": "#FCF0D5",
    "danger": "#AE2219",
    "danger_soft": "#FBE6E4",
    "neutral": "#545F71",
    "neutral_soft": "#E8EBF0",
    "series1": "#3A52C2",
    "series2": "#B4530A",
    "series3": "#117A65",
    "series4": "#9B2C87",
    "series5": "#546178",
}
DARK: Final = {
    "window": "#14171D",
    "surface": "#1B1F27",
    "raised": "#222732",
    "sunken": "#11141A",
    "rail": "#181C24",
    "border": "#333A47",
    "control": "#778296",
    "text": "#E7EAF0",
    "muted": "#A6AFBE",
    "disabled": "#6C7686",
    "accent": "#95A9FF",
    "accent_hover": "#AFBEFF",
    "on_accent": "#10141F",
    "accent_soft": "#27304F",
    "link": "#A5B6FF",
    "selection": "#2C375C",
    "focus": "#95A9FF",
    "ok": "#74D092",
    "ok_soft": "#16311F",
    "info": "#8FB6FF",
    "info_soft": "#192B49",
    "warning": "#F0BF60",
    "warning_soft": "#362A0C",
    "danger": "#FF9F96",
    "danger_soft": "#401C1A",
    "neutral": "#A6AFBE",
    "neutral_soft": "#2A303B",
    "series1": "#95A9FF",
    "series2": "#F2A65E",
    "series3": "#5FCFB4",
    "series4": "#E08FD0",
    "series5": "#A6AFBE",
}
# Which text stands on which ground, for the style sheet's authors and for the contrast test.
TEXT_ON_GROUND: Final = (
    *((text, ground) for text in ("text", "muted") for ground in ("window", "surface", "raised", "sunken", "rail")),
    *((text, ground) for text in ("text", "muted") for ground in ("selection", "accent_soft")),
    *(("link", ground) for ground in ("window", "surface", "raised", "selection")),
    *(("accent", ground) for ground in ("window", "surface", "accent_soft", "rail")),
    *((tone, ground) for tone in TONES for ground in ("window", "surface", "raised", f"{tone}_soft", "selection")),
    *(("text", f"{tone}_soft") for tone in TONES),
    ("on_accent", "accent"),
    ("on_accent", "accent_hover"),
)
# Borders of controls, focus rings and plot lines: graphics need 3:1.
GRAPHIC_ON_GROUND: Final = (
    *((line, ground) for line in ("control", "focus") for ground in ("window", "surface")),
    *((f"series{n}", ground) for n in range(1, 6) for ground in ("surface", "window")),
)
# Pixels; body is what tables and forms use.
TYPE_SCALE: Final = {"caption": 11, "body": 13, "heading": 15, "title": 21, "figure": 25}
FAMILIES: Final = (
    "Inter",
    "Segoe UI Variable Text",
    "Segoe UI",
    "SF Pro Text",
    "Noto Sans",
    "Cantarell",
    "Ubuntu",
    "DejaVu Sans",
)
MONOSPACE: Final = ("JetBrains Mono", "Cascadia Mono", "SF Mono", "Noto Sans Mono", "DejaVu Sans Mono")


class Theme(QObject):
    """The look in force.

    Attributes: ``choice`` (system | light | dark), ``dark`` (what that means now). Signals: ``changed()`` after the
    palette and style sheet were put in place; whoever painted with a colour repaints then.
    """

    changed = Signal()

    def __init__(self, app: QApplication, choice: str = "system") -> None:
        super().__init__(app)
        self._app = app
        self._bound: weakref.WeakKeyDictionary[QObject, Callable[[], None]] = weakref.WeakKeyDictionary()
        self._icons: dict[tuple[str, str, int, bool], QIcon] = {}
        self.choice, self.dark = choice, False
        families = set(QFontDatabase.families())
        self._families = [name for name in FAMILIES if name in families]
        self._monospace = [name for name in MONOSPACE if name in families]
        app.setStyle("Fusion")
        app.setFont(self.font("body"))
        app.styleHints().colorSchemeChanged.connect(self._on_system_changed)
        self.choose(choice)

    def choose(self, choice: str) -> None:
        """Put light, dark, or the system's scheme in force."""
        self.choice = choice if choice in ("light", "dark") else "system"
        system_dark = self._app.styleHints().colorScheme() == Qt.ColorScheme.Dark
        self.dark = self.choice == "dark" or (self.choice == "system" and system_dark)
        self._app.setPalette(self._palette())
        self._app.setStyleSheet(style_sheet(self._colours, TYPE_SCALE, "dark" if self.dark else "light"))
        for owner, apply in list(self._bound.items()):
            if shiboken6.isValid(owner):
                apply()
            else:
                del self._bound[owner]
        self.changed.emit()

    def name(self, role: str) -> str:
        """The colour of a role as ``#RRGGBB``. Raises KeyError for an unknown role."""
        return self._colours[role]

    def colour(self, role: str) -> QColor:
        return QColor(self.name(role))

    def font(self, size: str = "body", *, bold: bool = False, monospace: bool = False) -> QFont:
        """A font of the type scale, with tabular figures."""
        font = QFont(self._app.font())
        families = self._monospace if monospace else self._families
        if families:
            font.setFamilies(families)
        font.setStyleHint(QFont.StyleHint.Monospace if monospace else QFont.StyleHint.SansSerif)
        font.setPixelSize(TYPE_SCALE[size] - (1 if monospace else 0))
        font.setWeight(QFont.Weight.DemiBold if bold else QFont.Weight.Normal)
        font.setFeature(QFont.Tag("tnum"), 1)
        return font

    def icon(self, name: str, role: str = "muted", gap: int = 0) -> QIcon:
        """An icon in a role's colour, ``gap`` pixels before a text. The same object as long as the scheme stays."""
        key = (name, role, gap, self.dark)
        if key not in self._icons:
            self._icons[key] = icons.icon(name, self.name(role), self.name("disabled"), gap)
        return self._icons[key]

    def bind_icon(self, widget: QAbstractButton, name: str, role: str = "muted") -> None:
        """Give a button an icon that follows the scheme."""
        reference = weakref.ref(widget)
        gap = GRID // 2 if widget.text() else 0
        widget.setIconSize(QSize(ICON_PX + gap, ICON_PX))

        def apply() -> None:
            if (button := reference()) is not None:
                button.setIcon(self.icon(name, role, gap))

        self.bind(widget, apply)

    def bind_pixmap(self, label: QLabel, name: str, size: int, role: str = "muted") -> None:
        """Show an icon of ``size`` pixels in a label; it follows the scheme."""
        reference = weakref.ref(label)

        def apply() -> None:
            if (target := reference()) is not None:
                target.setPixmap(self.icon(name, role).pixmap(size, size))

        self.bind(label, apply)

    def bind(self, owner: QObject, apply: Callable[[], None]) -> None:
        """Call ``apply`` now and whenever the scheme changes, until ``owner`` is gone. It must not hold ``owner``."""
        self._bound[owner] = apply
        apply()

    def _on_system_changed(self, _scheme: Qt.ColorScheme) -> None:
        if self.choice == "system":
            self.choose("system")

    @property
    def _colours(self) -> dict[str, str]:
        return DARK if self.dark else LIGHT

    def _palette(self) -> QPalette:
        role, group = QPalette.ColorRole, QPalette.ColorGroup
        palette = QPalette()
        for target, name in (
            (role.Window, "window"),
            (role.WindowText, "text"),
            (role.Base, "surface"),
            (role.AlternateBase, "sunken"),
            (role.Text, "text"),
            (role.PlaceholderText, "muted"),
            (role.Button, "raised"),
            (role.ButtonText, "text"),
            (role.BrightText, "danger"),
            (role.Highlight, "selection"),
            (role.HighlightedText, "text"),
            (role.Link, "link"),
            (role.LinkVisited, "link"),
            (role.ToolTipBase, "raised"),
            (role.ToolTipText, "text"),
            (role.Light, "raised"),
            (role.Midlight, "border"),
            (role.Mid, "border"),
            (role.Dark, "control"),
            (role.Shadow, "control"),
            (role.Accent, "accent"),
        ):
            palette.setColor(target, self.colour(name))
        for target in (role.WindowText, role.Text, role.ButtonText):
            palette.setColor(group.Disabled, target, self.colour("disabled"))
        return palette


def contrast(first: str, second: str) -> float:
    """WCAG 2.2 contrast ratio of two ``#RRGGBB`` colours, from 1 to 21."""

    def luminance(name: str) -> float:
        parts = [int(name[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def set_role(widget: QWidget, **properties: str) -> None:
    """Set dynamic properties that the style sheet selects by, and restyle the widget."""
    for name, value in properties.items():
        widget.setProperty(name, value)
    style = widget.style()
    style.unpolish(widget)
    style.polish(widget)
