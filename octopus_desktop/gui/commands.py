"""One registry of what a person can do: menus, palette, tray and shortcuts all read it. Knows no page's inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PySide6.QtCore import QObject, Signal
from PySide6.QtGui import QAction

from octopus_desktop.gui.theme import Theme


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """``id``: the noun and verb as on the command line ("runs pause"). ``text``: the translated words of menus.
    ``group``: the menu it stands in (file | view | silo | help), "" for none."""

    id: str
    text: str
    run: Callable[[], object]
    shortcut: str = ""
    icon: str = ""
    group: str = ""
    enabled: Callable[[], bool] = _always


class Commands(QObject):
    """Commands by id, and one QAction for each.

    Signals: ``changed()`` when one was added or what is enabled was looked at again.
    """

    changed = Signal()

    def __init__(self, theme: Theme, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._commands: dict[str, Command] = {}
        self._actions: dict[str, QAction] = {}

    def add(self, command: Command) -> QAction:
        """Register a command. Raises ValueError when the id is taken."""
        if command.id in self._commands:
            raise ValueError(f"command {command.id!r} is registered twice")
        action = QAction(command.text, self)
        if command.shortcut:
            action.setShortcut(command.shortcut)
        action.triggered.connect(lambda _checked=False, id=command.id: self.run(id))
        self._commands[command.id], self._actions[command.id] = command, action
        if command.icon:
            self._theme.bind(action, lambda a=action, c=command: a.setIcon(self._theme.icon(c.icon)))
        action.setEnabled(command.enabled())
        self.changed.emit()
        return action

    def run(self, command_id: str) -> bool:
        """Run a command if it is enabled now; returns whether it ran. Raises KeyError for an unknown id."""
        command = self._commands[command_id]
        if not command.enabled():
            return False
        command.run()
        return True

    def action(self, command_id: str) -> QAction:
        return self._actions[command_id]

    def actions(self, group: str) -> list[QAction]:
        return [self._actions[c.id] for c in self._commands.values() if c.group == group]

    def all(self) -> list[Command]:
        return list(self._commands.values())

    def refresh(self) -> None:
        """Look again at what is enabled."""
        for command_id, command in self._commands.items():
            self._actions[command_id].setEnabled(command.enabled())
        self.changed.emit()
