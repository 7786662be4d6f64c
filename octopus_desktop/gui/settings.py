"""The window's own settings, in a file in the silo's home: appearance, column widths. Holds no truth of the silo."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from PySide6.QtCore import QSettings

# Every setting with its default; what stands here is all there is, beside the state of tables under "table/".
DEFAULTS: Final[dict[str, Any]] = {
    "appearance": "system",  # system | light | dark
    "notifications": True,
    "close_to_tray": True,
    "geometry": None,
    "page": "overview",
    "filters/logs_level": "info",
}


class Settings:
    """Typed access to one file. Unknown names raise KeyError, a broken value gives the default."""

    def __init__(self, path: Path) -> None:
        self._settings = QSettings(str(path), QSettings.Format.IniFormat)

    def get(self, name: str) -> Any:
        default = DEFAULTS[name]
        value = self._settings.value(name, default)
        if isinstance(default, bool):
            return value if isinstance(value, bool) else str(value).lower() == "true"
        return value if default is None or isinstance(value, type(default)) else default

    def put(self, name: str, value: Any) -> None:
        if name not in DEFAULTS:
            raise KeyError(name)
        self._settings.setValue(name, value)

    def get_table(self, key: str) -> Any:
        """The saved header state of the table ``key``, or None."""
        return self._settings.value(f"table/{key}")

    def put_table(self, key: str, state: Any) -> None:
        self._settings.setValue(f"table/{key}", state)

    def sync(self) -> None:
        self._settings.sync()
