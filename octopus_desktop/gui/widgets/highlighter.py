"""Pygments on a QTextDocument, a few milliseconds at a time, so that no file, however long, holds the window up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from PySide6.QtCore import QTimer
from PySide6.QtGui import QColor, QFont, QSyntaxHighlighter, QTextCharFormat, QTextDocument

from octopus_desktop.gui.widgets.ink import Ink

SLICE_S = 0.006

# The first of these that a token type begins with decides; Pygments' own names.
_KINDS: tuple[tuple[str, str], ...] = (
    ("Token.Comment", "comment"),
    ("Token.Literal.String", "string"),
    ("Token.Literal.Number", "number"),
    ("Token.Keyword", "keyword"),
    ("Token.Operator.Word", "keyword"),
    ("Token.Name.Decorator", "decorator"),
    ("Token.Name.Function", "function"),
    ("Token.Name.Class", "function"),
    ("Token.Name.Builtin", "builtin"),
    ("Token.Name.Tag", "keyword"),
    ("Token.Name.Attribute", "builtin"),
    ("Token.Generic.Heading", "section"),
    ("Token.Generic.Subheading", "section"),
    ("Token.Error", "error"),
)


class CodeHighlighter(QSyntaxHighlighter):
    """Colours a document by its file name. ``start`` begins; blocks get their colours as the lexer reaches them.

    Attributes:
        done: whether the lexer is through.
    """

    def __init__(self, document: QTextDocument, ink: Ink) -> None:
        super().__init__(document)
        self._spans: list[list[tuple[int, int, str]]] = []
        self._tokens: Iterator[tuple[int, Any, str]] | None = None
        self._kinds: dict[Any, str] = {}
        self._formats: dict[str, QTextCharFormat] = {}
        self._line = self._column = 0
        self._timer = QTimer(self, interval=0)
        self._timer.timeout.connect(self._go_on)
        self.done = True
        self._make_formats(ink)

    def forget(self) -> None:
        self._timer.stop()
        self._tokens, self._spans, self.done = None, [], True

    def start(self, path: str, text: str) -> None:
        self.forget()
        lexer = _lexer_for(path)
        if lexer is None or not text:
            return
        self._spans = [[] for _ in range(text.count("\n") + 1)]
        self._tokens = iter(lexer.get_tokens_unprocessed(text))
        self._line = self._column = 0
        self.done = False
        self._timer.start()
        self._go_on()

    def set_ink(self, ink: Ink) -> None:
        self._make_formats(ink)
        self.rehighlight()

    def highlightBlock(self, text: str) -> None:
        number = self.currentBlock().blockNumber()
        if number >= len(self._spans):
            return
        wide = any(ord(c) > 0xFFFF for c in text)
        for start, length, kind in self._spans[number]:
            if wide:  # Qt counts UTF-16 units, Python counts characters
                length = _units(text[start : start + length])
                start = _units(text[:start])
            self.setFormat(start, length, self._formats[kind])

    def _go_on(self) -> None:
        until, first = time.perf_counter() + SLICE_S, self._line
        assert self._tokens is not None
        for count, (_index, token, value) in enumerate(self._tokens):
            self._take(token, value)
            if count % 64 == 63 and time.perf_counter() > until:
                break
        else:
            self._timer.stop()
            self.done = True
        document = self.document()
        for number in range(first, self._line + 1):
            self.rehighlightBlock(document.findBlockByNumber(number))

    def _take(self, token: Any, value: str) -> None:
        kind = self._kinds.get(token)
        if kind is None:
            name = str(token)
            kind = self._kinds[token] = next((k for prefix, k in _KINDS if name.startswith(prefix)), "")
        parts = value.split("\n")
        for place, part in enumerate(parts):
            if place:
                self._line, self._column = self._line + 1, 0
            if kind and part and self._line < len(self._spans):
                self._spans[self._line].append((self._column, len(part), kind))
            self._column += len(part)

    def _make_formats(self, ink: Ink) -> None:
        self._formats = {}
        for kind, colour in ink.syntax.items():
            form = QTextCharFormat()
            form.setForeground(QColor(colour))
            if kind in ("keyword", "section"):
                form.setFontWeight(QFont.Weight.DemiBold)
            if kind == "comment":
                form.setFontItalic(True)
            self._formats[kind] = form


def _lexer_for(path: str) -> Any | None:
    if not path:
        return None
    from pygments.lexers import get_lexer_for_filename
    from pygments.util import ClassNotFound

    try:
        return get_lexer_for_filename(path)
    except ClassNotFound:
        return None


def _units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2
