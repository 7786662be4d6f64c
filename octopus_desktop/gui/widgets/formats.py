"""Numbers, sizes, spans of time and instants as words. Pure but for translation; no widget here."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime

from PySide6.QtCore import QCoreApplication

DASH = "–"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def _tr(text: str) -> str:
    return QCoreApplication.translate("formats", text)


def size(count: float) -> str:
    """Bytes in binary units with three significant figures: "1.50 MiB"."""
    value, unit = float(count), 0
    while abs(value) >= 1023.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    if unit == 0:
        return f"{int(value)} B"
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {_UNITS[unit]}"


def integer(value: int) -> str:
    """With a thin space between thousands: "12 345"."""
    return f"{value:,}".replace(",", "\u202f")


def number(value: float, digits: int = 4) -> str:
    """A metric: "0.8512", "1.2e-05", "–" for not a number."""
    if math.isnan(value) or math.isinf(value):
        return DASH
    if value != 0 and (abs(value) < 10**-digits or abs(value) >= 1e6):
        return f"{value:.2e}"
    return f"{value:.{digits}f}"


def percent(fraction: float, digits: int = 0) -> str:
    return f"{fraction * 100:.{digits}f}\u202f%"


def duration(seconds: float) -> str:
    """The two largest units: "2 h 05 min", "48 s", "0.31 s"."""
    if not math.isfinite(seconds) or seconds < 0:
        return DASH
    if seconds < 1:
        return _tr("{0} s").format(f"{seconds:.2f}")
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return _tr("{0} d {1} h").format(days, f"{hours % 24:02d}")
    if hours:
        return _tr("{0} h {1} min").format(hours, f"{minutes % 60:02d}")
    if minutes:
        return _tr("{0} min {1} s").format(minutes, f"{whole % 60:02d}")
    return _tr("{0} s").format(whole)


def instant(at: float) -> str:
    """Local date and time to the second; a dash for 0."""
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S") if at else DASH


def instant_utc(at: float) -> str:
    """The exact UTC stamp, for tooltips."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC" if at else ""


def clock(at: float) -> str:
    """Time of day for today, date and time of day otherwise."""
    if not at:
        return DASH
    moment = datetime.fromtimestamp(at)
    today = moment.date() == datetime.now().date()
    return moment.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M")


def age(at: float, now: float | None = None) -> str:
    """How long ago: "3 min ago", "just now"."""
    if not at:
        return DASH
    seconds = (time.time() if now is None else now) - at
    if seconds < 5:
        return _tr("just now")
    return _tr("{0} ago").format(_rough(seconds))


def until(at: float, now: float | None = None) -> str:
    """How long until then: "in 3 d", "past"; a dash for 0."""
    if not at:
        return DASH
    seconds = at - (time.time() if now is None else now)
    return _tr("in {0}").format(_rough(seconds)) if seconds > 0 else _tr("past")


def short_id(value: str) -> str:
    """The first eight characters, enough to tell apart."""
    return value[:8]


def _rough(seconds: float) -> str:
    for unit, text in ((86400, _tr("{0} d")), (3600, _tr("{0} h")), (60, _tr("{0} min"))):
        if seconds >= unit:
            return text.format(int(seconds // unit))
    return _tr("{0} s").format(max(0, int(seconds)))
