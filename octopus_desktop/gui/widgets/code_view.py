"""Source code for somebody who must judge it: highlighted, numbered, searchable, with findings and notes in the margin,
and with invisible characters made visible. Knows nothing of jobs or the daemon.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QPointF, QRect, QRectF, QSize, Qt, QTimer, Signal
from PySide6.QtGui import (
    QColor,
    QHelpEvent,
    QKeySequence,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPalette,
    QPolygonF,
    QResizeEvent,
    QShortcut,
    QTextCursor,
    QTextDocument,
)
from PySide6.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QToolButton,
    QToolTip,
    QVBoxLayout,
    QWidget,
)

from octopus_desktop.gui.widgets.highlighter import CodeHighlighter
from octopus_desktop.gui.widgets.ink import fixed_font, ink_of

MAX_SHOWN_BYTES = 4 << 20
# Characters that change what a reader sees without being seen: Unicode's directional controls and zero-width marks
# (the "Trojan Source" attack, CVE-2021-42574).
_INVISIBLE = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0x200B, 0x2010), 0x2060, 0xFEFF, 0x061C, 0x00AD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a line's margin shows. ``severity``: high | medium | low | info."""

    line: int
    severity: str
    text: str
    advice: str = ""


def reveal(text: str) -> tuple[str, int]:
    """The text with every invisible or control character written out as ``‹U+202E›``, and how many there were."""
    found = 0
    out = []
    for character in text:
        code = ord(character)
        if code in _INVISIBLE or (code < 32 and character not in "\t\n"):
            out.append(f"‹U+{code:04X}›")
            found += 1
        else:
            out.append(character)
    return ("".join(out), found) if found else (text, 0)


class CodeEditor(QPlainTextEdit):
    """The read-only text with its margin.

    Signals:
        note_requested(int): the reader clicked a line's margin; 1-based line.
    """

    note_requested = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
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
        self.marks: dict[int, list[Mark]] = {}
        self.notes: dict[int, str] = {}
        self.highlighter = CodeHighlighter(self.document(), ink_of(self))
        self._margin = _Margin(self)
        self._line = 0
        self.blockCountChanged.connect(self._fit_margin)
        self.updateRequest.connect(self._on_update_request)
        self._fit_margin()

    def show_text(self, path: str, text: str) -> None:
        self.marks, self.notes, self._line = {}, {}, 0
        self.highlighter.forget()
        self.setPlainText(text)
        self.highlighter.start(path, text)
        self._fit_margin()

    def go_to_line(self, line: int) -> None:
        """Show ``line`` (1-based) in the middle and mark it."""
        block = self.document().findBlockByNumber(max(0, line - 1))
        if not block.isValid():
            return
        self._line = line
        self.setTextCursor(QTextCursor(block))
        self.centerCursor()
        self.viewport().update()

    def margin_width(self) -> int:
        digits = max(3, len(str(self.blockCount())))
        return 22 + self.fontMetrics().horizontalAdvance("9") * digits + 10

    def lines_in(self, rect: QRect) -> Iterable[tuple[int, QRectF]]:
        """1-based numbers of the lines that ``rect`` shows, with where they stand in the viewport."""
        block, offset = self.firstVisibleBlock(), self.contentOffset()
        while block.isValid():
            box = self.blockBoundingGeometry(block).translated(offset)
            if box.top() > rect.bottom():
                return
            if block.isVisible() and box.bottom() >= rect.top():
                yield block.blockNumber() + 1, box
            block = block.next()

    def tip_of(self, line: int) -> str:
        parts = [
            f"{mark.severity.capitalize()}: {mark.text}" + (f"\n{mark.advice}" if mark.advice else "")
            for mark in self.marks.get(line, ())
        ]
        if line in self.notes:
            parts.append(self.tr("Note: {text}").format(text=self.notes[line]))
        return "\n\n".join(parts)

    def paintEvent(self, event: QPaintEvent) -> None:
        # The lines' grounds come before the text, so that selection and glyphs stay on top of them.
        painter, ink = QPainter(self.viewport()), ink_of(self)
        width = self.viewport().width()
        for line, box in self.lines_in(event.rect()):
            row = QRectF(0, box.top(), width, self.fontMetrics().height())
            if line == self._line:
                painter.fillRect(row, QColor(ink.current))
            if line in self.marks:
                tint = QColor(ink.severity.get(self.marks[line][0].severity, ink.muted))
                tint.setAlpha(28)
                painter.fillRect(row, tint)
        painter.end()
        super().paintEvent(event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        inner = self.contentsRect()
        self._margin.setGeometry(QRect(inner.left(), inner.top(), self.margin_width(), inner.height()))

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.PaletteChange and hasattr(self, "highlighter"):
            self.highlighter.set_ink(ink_of(self))
            self._margin.update()
        if event.type() == QEvent.Type.StyleChange and hasattr(self, "_margin"):
            self.setFont(fixed_font())
            self._fit_margin()

    def _fit_margin(self) -> None:
        self.setViewportMargins(self.margin_width(), 0, 0, 0)
        self._margin.resize(self.margin_width(), self._margin.height())
        self._margin.update()

    def _on_update_request(self, rect: QRect, dy: int) -> None:
        if dy:
            self._margin.scroll(0, dy)
        else:
            self._margin.update(0, rect.y(), self._margin.width(), rect.height())


class _Margin(QWidget):
    """Line numbers, one mark for the worst finding of a line, and a dot where there is a note."""

    def __init__(self, editor: CodeEditor) -> None:
        super().__init__(editor)
        self._editor = editor
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def sizeHint(self) -> QSize:
        return QSize(self._editor.margin_width(), 0)

    def line_at(self, y: float) -> int:
        for line, box in self._editor.lines_in(self._editor.viewport().rect()):
            if box.top() <= y < box.bottom():
                return line
        return 0

    def paintEvent(self, event: QPaintEvent) -> None:
        painter, ink, editor = QPainter(self), ink_of(self._editor), self._editor
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(event.rect(), QColor(ink.gutter))
        painter.setFont(editor.font())
        for line, box in editor.lines_in(event.rect()):
            number = QRectF(20, box.top(), self.width() - 28, editor.fontMetrics().height())
            painter.setPen(QColor(ink.muted))
            painter.drawText(number, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, str(line))
            middle = box.top() + editor.fontMetrics().height() / 2
            if line in editor.marks:
                draw_severity(painter, QPointF(11, middle), editor.marks[line][0].severity, ink.severity)
            elif line in editor.notes:
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(QColor(ink.accent))
                painter.drawRoundedRect(QRectF(7, middle - 3.5, 9, 7), 2, 2)

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            line = self.line_at(event.pos().y())
            tip = self._editor.tip_of(line) if line else ""
            QToolTip.showText(event.globalPos(), tip or self.tr("Click to write a note on this line"), self)
            return True
        return super().event(event)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        line = self.line_at(event.position().y())
        if line and event.button() == Qt.MouseButton.LeftButton:
            self._editor.note_requested.emit(line)


def draw_severity(painter: QPainter, centre: QPointF, severity: str, colours: dict[str, str]) -> None:
    """A mark that differs by shape as well as by colour: triangle, diamond, circle, ring."""
    painter.setBrush(QColor(colours.get(severity, colours["info"])))
    painter.setPen(Qt.PenStyle.NoPen)
    x, y = centre.x(), centre.y()
    if severity == "high":
        painter.drawPolygon(QPolygonF([QPointF(x, y - 5.5), QPointF(x + 6, y + 5), QPointF(x - 6, y + 5)]))
    elif severity == "medium":
        painter.drawPolygon(QPolygonF([QPointF(x, y - 6), QPointF(x + 6, y), QPointF(x, y + 6), QPointF(x - 6, y)]))
    elif severity == "low":
        painter.drawEllipse(centre, 4.5, 4.5)
    else:
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(QColor(colours["info"]))
        painter.drawEllipse(centre, 3.5, 3.5)


class CodeView(QWidget):
    """One file with its search bar.

    Signals:
        note_requested(int): the reader wants to write a note on this 1-based line.
    """

    note_requested = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.path = ""
        self.editor = CodeEditor()
        self.editor.setAccessibleName(self.tr("Source code"))
        self.editor.note_requested.connect(self.note_requested)
        self.warning = QLabel(wordWrap=True)
        self.warning.setMargin(8)
        self.warning.hide()
        self._search = QLineEdit(placeholderText=self.tr("Search in this file"), clearButtonEnabled=True)
        self._search.setAccessibleName(self.tr("Search in this file"))
        self._count = QLabel()
        self._bar = self._make_bar()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        for widget in (self.warning, self._bar, self.editor):
            layout.addWidget(widget)
        self._pause = QTimer(self, singleShot=True, interval=120)
        self._pause.timeout.connect(lambda: self.find_next(from_start=True))
        self._search.textChanged.connect(lambda _text: self._pause.start())
        self._search.returnPressed.connect(self.find_next)
        for keys, slot in (
            (QKeySequence.StandardKey.Find, self.open_search),
            (QKeySequence.StandardKey.FindNext, self.find_next),
            (QKeySequence.StandardKey.FindPrevious, lambda: self.find_next(backward=True)),
            (QKeySequence(Qt.Key.Key_Escape), self.close_search),
        ):
            QShortcut(keys, self, slot, context=Qt.ShortcutContext.WidgetWithChildrenShortcut)

    def show_bytes(self, path: str, content: bytes, *, binary: bool, whole: int = 0) -> None:
        """Show a file as it lies in the package; what is no text is told, not shown. ``whole``: the file's size, when
        ``content`` may be its beginning only."""
        if binary or len(content) > MAX_SHOWN_BYTES:
            self._show_note(
                path,
                self.tr("{path} is not text, or too large to show ({size:,} bytes).").format(
                    path=path, size=max(whole, len(content))
                ),
            )
            return
        self.show_text(path, content.decode("utf-8", errors="replace").replace("\r\n", "\n"))
        if whole > len(content):
            self._warn(
                self.tr(
                    "Only the first {0:,} of {1:,} bytes are shown. The rest of this file you have not seen."
                ).format(len(content), whole)
            )
            self.warning.show()

    def show_text(self, path: str, text: str) -> None:
        self.path = path
        shown, hidden = reveal(text)
        self.warning.setVisible(bool(hidden))
        if hidden:
            self._warn(
                self.tr(
                    "Invisible characters in this file: {0}. They are written out below as ‹U+…›; they can make code "
                    "read differently from what it does."
                ).format(hidden)
            )
        self.editor.show_text(path, shown)

    def clear(self, text: str = "") -> None:
        self._show_note("", text)

    def set_marks(self, marks: Iterable[Mark]) -> None:
        """Findings of this file; the worst of a line comes first."""
        order = {"high": 0, "medium": 1, "low": 2, "info": 3}
        self.editor.marks = {}
        for mark in sorted(marks, key=lambda m: order.get(m.severity, 4)):
            self.editor.marks.setdefault(mark.line, []).append(mark)
        self.editor.viewport().update()
        self.editor._margin.update()

    def set_notes(self, notes: dict[int, str]) -> None:
        self.editor.notes = dict(notes)
        self.editor._margin.update()

    def go_to_line(self, line: int) -> None:
        self.editor.go_to_line(line)

    def open_search(self) -> None:
        self._bar.show()
        self._search.setFocus()
        self._search.selectAll()

    def close_search(self) -> None:
        self._bar.hide()
        self.editor.setFocus()

    def find_next(self, *, backward: bool = False, from_start: bool = False) -> bool:
        """Select the next match, beginning again at the other end; says how many there are."""
        needle = self._search.text()
        if not needle:
            self._count.clear()
            return False
        text = self.editor.toPlainText()
        total = text.lower().count(needle.lower())
        flags = QTextDocument.FindFlag.FindBackward if backward else QTextDocument.FindFlag(0)
        if from_start:
            self.editor.moveCursor(QTextCursor.MoveOperation.Start)
        found = self.editor.find(needle, flags)
        if not found and total:
            end = QTextCursor.MoveOperation.End if backward else QTextCursor.MoveOperation.Start
            self.editor.moveCursor(end)
            found = self.editor.find(needle, flags)
        if found:
            start = self.editor.textCursor().selectionStart()
            index = text[:start].lower().count(needle.lower()) + 1
            self._count.setText(self.tr("{index} of {total}").format(index=index, total=total))
        else:
            self._count.setText(self.tr("not found"))
        return found

    def _make_bar(self) -> QWidget:
        bar = QWidget()
        row = QHBoxLayout(bar)
        row.setContentsMargins(8, 4, 8, 4)
        row.setSpacing(8)
        row.addWidget(self._search, 1)
        row.addWidget(self._count)
        for text, name, slot in (
            ("↑", self.tr("Previous match"), lambda: self.find_next(backward=True)),
            ("↓", self.tr("Next match"), self.find_next),
            ("✕", self.tr("Close the search"), self.close_search),
        ):
            button = QToolButton(text=text, toolTip=name, autoRaise=True)
            button.setAccessibleName(name)
            button.clicked.connect(lambda _checked=False, slot=slot: slot())
            row.addWidget(button)
        bar.hide()
        return bar

    def _show_note(self, path: str, text: str) -> None:
        self.path = path
        self.warning.hide()
        self.editor.show_text("", text)

    def _warn(self, text: str) -> None:
        ink = ink_of(self)
        palette = self.warning.palette()
        palette.setColor(QPalette.ColorRole.Window, QColor(ink.removed))
        palette.setColor(QPalette.ColorRole.WindowText, QColor(ink.text))
        self.warning.setAutoFillBackground(True)
        self.warning.setPalette(palette)
        self.warning.setText(text)
