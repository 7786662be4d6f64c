"""One file's unified difference, coloured by line, with old and new line numbers and jumps from change to change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QRect, QRectF, Qt
from PySide6.QtGui import (
    QColor,
    QKeySequence,
    QPainter,
    QPaintEvent,
    QResizeEvent,
    QShortcut,
    QTextCursor,
)
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPlainTextEdit, QToolButton, QVBoxLayout, QWidget

from octopus_desktop.gui.widgets.code_view import reveal
from octopus_desktop.gui.widgets.ink import Ink, fixed_font, ink_of

_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@(.*)")


@dataclass(frozen=True, slots=True)
class DiffLine:
    """``kind``: added | removed | same | hunk; numbers are 1-based, 0 where the line is not on that side."""

    kind: str
    text: str
    old: int = 0
    new: int = 0


def parse(unified: str) -> list[DiffLine]:
    """The lines of a unified difference, without its file headers; what is no difference comes back as it is."""
    lines: list[DiffLine] = []
    old = new = 0
    inside = False
    for raw in unified.split("\n"):
        match = _HUNK.match(raw)
        if match:
            old, new, inside = int(match[1]), int(match[2]), True
            lines.append(DiffLine("hunk", raw))
        elif not inside:
            if raw and not raw.startswith(("---", "+++", "diff ", "index ")):
                lines.append(DiffLine("same", raw))
        elif raw.startswith("+"):
            lines.append(DiffLine("added", raw[1:], 0, new))
            new += 1
        elif raw.startswith("-"):
            lines.append(DiffLine("removed", raw[1:], old, 0))
            old += 1
        elif raw.startswith(" "):
            lines.append(DiffLine("same", raw[1:], old, new))
            old, new = old + 1, new + 1
        elif raw.startswith("\\"):
            lines.append(DiffLine("same", raw))
    return lines


class DiffText(QPlainTextEdit):
    """The lines themselves; grounds and numbers are painted for the visible lines only."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.lines: list[DiffLine] = []
        self.setReadOnly(True)
        self.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
        self.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.setFont(fixed_font())
        self.setTabStopDistance(4 * self.fontMetrics().horizontalAdvance(" "))
        self.setStyleSheet(
            "QPlainTextEdit, QPlainTextEdit:focus { border: none; border-radius: 0; padding: 0; }"
            "QAbstractScrollArea::corner { background: transparent; border: none; }"
        )
        self._margin = _Numbers(self)
        self.updateRequest.connect(lambda _rect, _dy: self._margin.update())

    def show_lines(self, lines: list[DiffLine]) -> None:
        self.lines = lines
        self.setPlainText("\n".join(reveal(line.text)[0] for line in lines))
        self.setViewportMargins(self.margin_width(), 0, 0, 0)
        self._place()

    def margin_width(self) -> int:
        most = max((max(line.old, line.new) for line in self.lines), default=0)
        return self.fontMetrics().horizontalAdvance("9") * (2 * max(3, len(str(most))) + 3) + 20

    def visible(self, rect: QRect) -> Iterator[tuple[DiffLine, QRectF]]:
        block, offset = self.firstVisibleBlock(), self.contentOffset()
        while block.isValid() and block.blockNumber() < len(self.lines):
            box = self.blockBoundingGeometry(block).translated(offset)
            if box.top() > rect.bottom():
                return
            if box.bottom() >= rect.top():
                yield self.lines[block.blockNumber()], box
            block = block.next()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter, ink = QPainter(self.viewport()), ink_of(self)
        for line, box in self.visible(event.rect()):
            ground = ground_of(line.kind, ink)
            if ground:
                painter.fillRect(QRectF(0, box.top(), self.viewport().width(), box.height()), QColor(ground))
        painter.end()
        super().paintEvent(event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._place()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.StyleChange and hasattr(self, "_margin"):
            self.setFont(fixed_font())
            self._place()

    def _place(self) -> None:
        inner = self.contentsRect()
        self._margin.setGeometry(QRect(inner.left(), inner.top(), self.margin_width(), inner.height()))
        self._margin.update()


class _Numbers(QWidget):
    """Old number, new number, and the sign: the kind of a line does not rest on colour alone."""

    def __init__(self, text: DiffText) -> None:
        super().__init__(text)
        self._text = text

    def paintEvent(self, event: QPaintEvent) -> None:
        painter, text = QPainter(self), self._text
        ink = ink_of(text)
        painter.fillRect(event.rect(), QColor(ink.gutter))
        painter.setFont(text.font())
        sign_width = text.fontMetrics().horizontalAdvance("9") * 2
        half = (self.width() - sign_width) / 2
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        for line, whole in text.visible(event.rect()):
            box = QRectF(whole.left(), whole.top(), whole.width(), text.fontMetrics().height())  # the last is taller
            ground = ground_of(line.kind, ink)
            if ground:
                painter.fillRect(QRectF(0, box.top(), self.width(), box.height()), QColor(ground))
            painter.setPen(QColor(ink.muted))
            if line.old:
                painter.drawText(QRectF(0, box.top(), half - 4, box.height()), right, str(line.old))
            if line.new:
                painter.drawText(QRectF(half, box.top(), half - 4, box.height()), right, str(line.new))
            if line.kind in ("added", "removed"):
                painter.setPen(QColor(ink.added_mark if line.kind == "added" else ink.removed_mark))
                place = QRectF(2 * half, box.top(), sign_width - 4, box.height())
                painter.drawText(place, Qt.AlignmentFlag.AlignCenter, "+" if line.kind == "added" else "−")


def ground_of(kind: str, ink: Ink) -> str:
    return {"added": ink.added, "removed": ink.removed, "hunk": ink.hunk}.get(kind, "")


class DiffView(QWidget):
    """The difference with its header: how much was added and removed, and buttons to the next and previous change."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.text = DiffText()
        self.text.setAccessibleName(self.tr("Changes of this file"))
        self.counts = QLabel(textFormat=Qt.TextFormat.PlainText)
        self._changes: list[int] = []
        header = QHBoxLayout()
        header.setContentsMargins(8, 4, 8, 4)
        header.addWidget(self.counts, 1)
        self._buttons = []
        for sign, name, step in (
            ("↑", self.tr("Previous change (Shift+F7)"), -1),
            ("↓", self.tr("Next change (F7)"), 1),
        ):
            button = QToolButton(text=sign, toolTip=name, autoRaise=True)
            button.setAccessibleName(name)
            button.clicked.connect(lambda _checked=False, step=step: self.jump(step))
            header.addWidget(button)
            self._buttons.append(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addLayout(header)
        layout.addWidget(self.text, 1)
        where = Qt.ShortcutContext.WidgetWithChildrenShortcut
        QShortcut(QKeySequence(Qt.Key.Key_F7), self, lambda: self.jump(1), context=where)
        QShortcut(QKeySequence("Shift+F7"), self, lambda: self.jump(-1), context=where)

    def show_diff(self, path: str, change: str, unified: str) -> None:
        """``change``: added | removed | changed; ``unified``: the text of the difference."""
        lines = parse(unified)
        self.text.show_lines(lines)
        added = sum(line.kind == "added" for line in lines)
        removed = sum(line.kind == "removed" for line in lines)
        word = {"added": self.tr("new file"), "removed": self.tr("removed file")}.get(change, self.tr("changed"))
        self.counts.setText(f"{path} · {word} · +{added} −{removed}" if path else "")
        if path and not lines:
            self.text.show_lines([DiffLine("same", self.tr("There is no text to compare in this file."))])
        self._changes = [
            number
            for number, line in enumerate(lines)
            if line.kind in ("added", "removed") and (number == 0 or lines[number - 1].kind not in ("added", "removed"))
        ]
        for button in self._buttons:
            button.setEnabled(bool(self._changes))

    def clear(self) -> None:
        self.show_diff("", "", "")

    def jump(self, step: int) -> int:
        """Go to the next (1) or previous (-1) run of changed lines; returns its line in the view, -1 for none."""
        if not self._changes:
            return -1
        here = self.text.textCursor().blockNumber()
        if step > 0:
            target = next((n for n in self._changes if n > here), self._changes[0])
        else:
            target = next((n for n in reversed(self._changes) if n < here), self._changes[-1])
        self.text.setTextCursor(QTextCursor(self.text.document().findBlockByNumber(target)))
        self.text.centerCursor()
        return target
