"""Our own line icons: SVG files beside this module, drawn in any colour at any size. Knows no theme."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from PySide6.QtCore import QByteArray, QRectF, Qt
from PySide6.QtGui import QIcon, QPainter, QPixmap
from PySide6.QtSvg import QSvgRenderer

SIZES = ((16, 1.0), (16, 2.0), (20, 1.0), (20, 2.0), (48, 1.0))  # logical pixels, device pixel ratio


@lru_cache(maxsize=256)
def svg(name: str) -> str:
    """The source of an icon. Raises FileNotFoundError when there is none of this name."""
    return (files("octopus_desktop.gui") / "icons" / f"{name}.svg").read_text(encoding="utf-8")


def pixmap(name: str, colour: str, size: int, scale: float = 1.0, gap: int = 0) -> QPixmap:
    """An icon as ``size`` logical pixels at a device pixel ratio of ``scale``."""
    picture = QPixmap(round((size + gap) * scale), round(size * scale))
    picture.fill(Qt.GlobalColor.transparent)
    painter = QPainter(picture)
    renderer = QSvgRenderer(QByteArray(svg(name).replace("currentColor", colour).encode()))
    renderer.render(painter, QRectF(0, 0, picture.height(), picture.height()))
    painter.end()
    picture.setDevicePixelRatio(scale)
    return picture


def icon(name: str, colour: str, disabled: str, gap: int = 0) -> QIcon:
    """An icon for buttons and views, sharp at ordinary and doubled resolution, greyed where disabled. ``gap``: empty
    pixels at its right, between icon and text."""
    result = QIcon()
    for size, scale in SIZES:
        result.addPixmap(pixmap(name, colour, size, scale, gap))
    for size, scale in SIZES[:2]:
        result.addPixmap(pixmap(name, disabled, size, scale, gap), QIcon.Mode.Disabled)
    return result
