"""Rejecting, asking for changes, revoking, stopping: acts that need a reason somebody else will read."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QCoreApplication, QEvent, QObject, Qt
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QDialog, QDialogButtonBox, QLabel, QPlainTextEdit, QVBoxLayout, QWidget

from octopus_desktop.gui.theme import set_role

MOST_CHARACTERS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """What the dialog says. ``kind``: how its button looks (primary | danger)."""

    title: str
    text: str
    hint: str
    button: str
    kind: str = "primary"


def wording(act: str, subject: str) -> Wording:
    """``act``: reject | changes | revoke | stop; ``subject``: the job's or the run's name."""
    tr = QCoreApplication.translate
    if act == "reject":
        return Wording(
            title=tr("reason", "Reject {0}").format(subject),
            text=tr("reason", "This run will not happen here. The author gets your reason, signed by you."),
            hint=tr("reason", "Why? For example: “The purpose is not covered by our agreement.”"),
            button=tr("reason", "Reject and sign"),
            kind="danger",
        )
    if act == "changes":
        return Wording(
            title=tr("reason", "Ask for changes to {0}").format(subject),
            text=tr("reason", "This version will not run here. The author gets what you write, and may offer another."),
            hint=tr("reason", "What should change? For example: “Read only the columns age and sex.”"),
            button=tr("reason", "Send and sign"),
        )
    if act == "revoke":
        return Wording(
            title=tr("reason", "Revoke the approval of {0}").format(subject),
            text=tr(
                "reason",
                "The run stops here at once, and cannot go on without a new approval. What has already left cannot be "
                "called back.",
            ),
            hint=tr("reason", "Why? The author and the federation get your reason."),
            button=tr("reason", "Revoke and stop"),
            kind="danger",
        )
    return Wording(
        title=tr("reason", "Stop {0}").format(subject),
        text=tr(
            "reason",
            "Training ends here, and this run cannot be taken up again. The other silos may go on without you. To go "
            "on later, pause instead.",
        ),
        hint=tr("reason", "Why? The federation gets your reason."),
        button=tr("reason", "Stop the run"),
        kind="danger",
    )


class ReasonDialog(QDialog):
    """Asks for a reason; its button stays off until there is one."""

    def __init__(self, parent: QWidget, words: Wording) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(words.title)
        self.setMinimumWidth(480)
        heading = QLabel(words.title, wordWrap=True, textFormat=Qt.TextFormat.PlainText)
        set_role(heading, type="heading")
        text = QLabel(words.text, wordWrap=True)
        self.field = QPlainTextEdit(placeholderText=words.hint, tabChangesFocus=True)
        self.field.setAccessibleName(QCoreApplication.translate("reason", "Reason"))
        self.field.setMinimumHeight(112)
        self.remark = QLabel(wordWrap=True)
        set_role(self.remark, type="caption")
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.confirm = buttons.addButton(words.button, QDialogButtonBox.ButtonRole.AcceptRole)
        set_role(self.confirm, kind=words.kind)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        self.field.textChanged.connect(self._judge)
        self.field.installEventFilter(self)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(24, 24, 24, 16)
        layout.setSpacing(12)
        for widget in (heading, text, self.field, self.remark, buttons):
            layout.addWidget(widget)
        self.field.setFocus()
        self._judge()

    @property
    def reason(self) -> str:
        return self.field.toPlainText().strip()

    def _judge(self) -> None:
        tr, count = QCoreApplication.translate, len(self.reason)
        fine = 0 < count <= MOST_CHARACTERS
        self.confirm.setEnabled(fine)
        if not count:
            self.remark.setText(tr("reason", "A reason is needed."))
        elif count > MOST_CHARACTERS:
            self.remark.setText(tr("reason", "Too long by {0} characters.").format(count - MOST_CHARACTERS))
        else:
            self.remark.setText(tr("reason", "Ctrl+Return confirms."))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        # Return belongs to the text; Ctrl+Return confirms.
        if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            enter = event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
            if enter and event.modifiers() & Qt.KeyboardModifier.ControlModifier:
                if self.confirm.isEnabled():
                    self.accept()
                return True
        return super().eventFilter(watched, event)
