"""Where each key and value of a TOML document stands: for errors that name a line and a column.

Reads only what ``tomllib`` has accepted already, so it needs not judge, only to walk. Knows no job.
"""

from __future__ import annotations

import re

Path = tuple[str | int, ...]
Place = tuple[int, int]  # line and column, from 1

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"[ \t]*")
_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}\n#]+")
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)")
_SIMPLE = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}


def places(text: str) -> dict[Path, Place]:
    """Path -> place of its key (or of its element, in arrays). ``("data", 0, "columns", "age")`` and the like."""
    walker = _Walker(text)
    walker.document()
    return walker.found


class _Walker:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.found: dict[Path, Place] = {}
        self._counts: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        self._skip(_SPACE)
        while self.at < len(self.text):
            if self.text.startswith("[[", self.at):
                table = self._header(2, array=True)
            elif self.text[self.at] == "[":
                table = self._header(1, array=False)
            else:
                self._pair(table)
            self._skip(_SPACE)

    def _header(self, brackets: int, *, array: bool) -> Path:
        start = self.at
        self.at += brackets
        keys = self._keys()
        self.at += brackets
        path = self._resolve(keys if not array else keys[:-1])
        if array:
            path = (*path, keys[-1])
            self._note(path, start)
            count = self._counts.get(path, 0)
            self._counts[path] = count + 1
            path = (*path, count)
        self._note(path, start)
        return path

    def _resolve(self, keys: list[str]) -> Path:
        """A header's keys as a path: each array of tables on the way means its newest element."""
        path: Path = ()
        for key in keys:
            path = (*path, key)
            if path in self._counts:
                path = (*path, self._counts[path] - 1)
        return path

    def _pair(self, table: Path) -> None:
        start = self.at
        path = table
        for key in self._keys():
            path = (*path, key)
            self._note(path, start)
        self.at += 1  # the equals sign
        self._skip(_BLANK)
        self._value(path)

    def _keys(self) -> list[str]:
        """A dotted key; ends before ``=`` or ``]``."""
        keys = []
        while True:
            self._skip(_BLANK)
            if self.text[self.at] in "\"'":
                keys.append(self._string())
            else:
                bare = _BARE.match(self.text, self.at)
                if bare is None:
                    return keys
                keys.append(bare[0])
                self.at = bare.end()
            self._skip(_BLANK)
            if self.text[self.at] != ".":
                return keys
            self.at += 1

    def _value(self, path: Path) -> None:
        first = self.text[self.at]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._array(path)
        elif first == "{":
            self._inline(path)
        else:
            self._skip(_SCALAR)

    def _array(self, path: Path) -> None:
        self.at += 1
        index = 0
        while True:
            self._skip(_SPACE)
            if self.text[self.at] == "]":
                self.at += 1
                return
            self._note((*path, index), self.at)
            self._value((*path, index))
            index += 1
            self._skip(_SPACE)
            if self.text[self.at] == ",":
                self.at += 1

    def _inline(self, path: Path) -> None:
        self.at += 1
        while True:
            self._skip(_SPACE)
            if self.text[self.at] == "}":
                self.at += 1
                return
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self._pair(path)

    def _string(self) -> str:
        quote = self.text[self.at]
        triple = self.text.startswith(quote * 3, self.at)
        mark = quote * 3 if triple else quote
        start = end = self.at + len(mark)
        while not self.text.startswith(mark, end):
            end += 2 if quote == '"' and self.text[end] == "\\" else 1
        while triple and self.text.startswith(quote, end + 3):  # up to two quotes may stand before the end mark
            end += 1
        self.at = end + len(mark)
        raw = self.text[start:end]
        return raw if quote == "'" else _ESCAPE.sub(_unescape, raw)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()

    def _note(self, path: Path, at: int) -> None:
        line = self.text.count("\n", 0, at) + 1
        self.found.setdefault(path, (line, at - self.text.rfind("\n", 0, at)))


def _unescape(found: re.Match[str]) -> str:
    code = found[1]
    return chr(int(code[1:], 16)) if code[0] in "uU" and len(code) > 1 else _SIMPLE.get(code, code)
