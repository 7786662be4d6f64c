"""A dialog with a heading, a form, a place for what went wrong, and one act. Knows nothing of what it asks."""

from __future__ import annotations

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import (
    QDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QVBoxLayout,
    QWidget,
)

from octopus_desktop.gui.theme import GRID, Theme, set_role
from octopus_desktop.gui.widgets.parts import button, label
from octopus_desktop.wire.errors import UserError


class Problem(QLabel):
    """A UserError inside a form: what, why and the next step. Hidden while there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setWordWrap(True)
        self.setProperty("tone", "danger")
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.hide()

    def tell(self, error: UserError | None) -> None:
        if error is None:
            self.hide()
            return
        self.setText("\n".join(part for part in (f"{error.what} [{error.code}]", error.why, error.next_step) if part))
        self.show()


class FormDialog(QDialog):
    """Add rows to ``form`` and widgets to ``body``; override ``_on_act``. While ``set_busy`` the act waits."""

    def __init__(self, theme: Theme, parent: QWidget, title: str, text: str, act: str, *, danger: bool = False) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(title)
        self.setMinimumWidth(560)
        self.theme = theme
        column = QVBoxLayout(self)
        column.setContentsMargins(3 * GRID, 3 * GRID, 3 * GRID, 2 * GRID)
        column.setSpacing(2 * GRID)
        column.addWidget(label(title, "heading"))
        if text:
            column.addWidget(label(text, "muted", wrap=True))
        self.body = QVBoxLayout()
        self.body.setSpacing(2 * GRID)
        column.addLayout(self.body)
        self.form = QFormLayout()
        self.form.setHorizontalSpacing(2 * GRID)
        self.form.setVerticalSpacing(GRID)
        self.form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        self.form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        self.body.addLayout(self.form)
        self.problem = Problem()
        column.addWidget(self.problem)
        column.addStretch(1)
        row = QHBoxLayout()
        row.setSpacing(GRID)
        self._status = label("", "muted")
        row.addWidget(self._status, 1)
        self.cancel = button(theme, self.tr("Cancel"), self.reject)
        self.act = button(theme, act, self._on_act, kind="danger" if danger else "primary")
        self.act.setDefault(True)
        row.addWidget(self.cancel)
        row.addWidget(self.act)
        column.addLayout(row)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        for field in self.findChildren(QWidget):
            if isinstance(field, (QLineEdit, QPlainTextEdit)) and field.isEnabled():
                field.setFocus()
                return

    def set_busy(self, words: str) -> None:
        """Say what goes on and hold the act back; "" ends it."""
        self._status.setText(words)
        self.act.setEnabled(not words)

    def tell(self, error: UserError | None) -> None:
        self.set_busy("")
        self.problem.tell(error)
        self.fit()

    def fit(self) -> None:
        """Grow to what wrapped texts need, once they have their place."""
        QTimer.singleShot(0, self, self._grow)

    def _grow(self) -> None:
        layout = self.layout()
        layout.activate()
        need = max(layout.totalHeightForWidth(self.width()), layout.totalMinimumSize().height())
        if need > self.height():
            self.resize(self.width(), need)

    def _on_act(self) -> None:
        self.accept()


def confirm(theme: Theme, parent: QWidget, title: str, text: str, act: str) -> FormDialog:
    """Say what a destructive act will do and ask once; connect to ``accepted`` and ``open`` it."""
    dialog = FormDialog(theme, parent, title, text, act, danger=True)
    dialog.cancel.setDefault(True)
    dialog.cancel.setFocus()
    set_role(dialog, look="page")
    return dialog
