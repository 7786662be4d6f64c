"""The one place where a UserError becomes a dialog or words. Known errors are told, bugs are logged."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from types import TracebackType

from PySide6.QtCore import QCoreApplication, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QMessageBox, QWidget

from octopus_desktop.wire.errors import UserError

_log = logging.getLogger("octopus.gui")


def as_text(error: UserError) -> str:
    """What, why, next step and code in one readable block, as it is copied."""
    return str(error)


def error_dialog(parent: QWidget | None, error: UserError) -> QMessageBox:
    """A dialog that says what failed, why, and the next step. The caller shows it."""
    tr = QCoreApplication.translate
    box = QMessageBox(QMessageBox.Icon.Warning, tr("errors", "Octopus Desktop"), error.what, parent=parent)
    parts = [error.why, tr("errors", "Next: {0}").format(error.next_step) if error.next_step else ""]
    box.setInformativeText("\n\n".join(part for part in (*parts, error.code) if part))
    box.setTextFormat(Qt.TextFormat.PlainText)
    copy = box.addButton(tr("errors", "Copy"), QMessageBox.ButtonRole.ActionRole)
    copy.clicked.disconnect()  # stay open
    copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(as_text(error)))
    box.setDefaultButton(box.addButton(QMessageBox.StandardButton.Close))
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.setWindowModality(Qt.WindowModality.WindowModal)
    return box


def install_excepthook(tell: Callable[[UserError], None]) -> None:
    """Let an exception in a slot be logged and told, not lost on a console that nobody sees."""

    def hook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, value, trace)
            return
        if isinstance(value, UserError):
            tell(value)
            return
        _log.error("unexpected: %s", "".join(traceback.format_exception(kind, value, trace)))
        sys.__excepthook__(kind, value, trace)

    sys.excepthook = hook
