"""Words between a parent process and its child: one JSON object a line, on the child's stdin and stdout.

The words are hints and live reports only; what must not be lost lies in the run's mailbox. A child ends when its stdin
ends, so that no child outlives its parent. Knows nothing of asyncio, torch or the rooms above.

Parent to child: ``inbox`` (new rows in the inbox), ``pause``, ``resume``, ``stop`` {reason}; to a coordinator also
``live`` {silo, round, fraction, state} and ``silo`` {silo, up}.
Child to parent: ``ready``, ``outbox`` (new rows in the outbox), ``progress`` {state, round, task, epoch, fraction},
``metrics`` {points: [[name, source, round, step, value, at], ...]}, ``span`` {lane, step, round, start, end},
``log`` {level, source, text, at}, ``round`` {...} (coordinator: a round's row changed), ``ended`` {state, reason,
code}.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import IO, Any


class ParentLink:
    """The child's end: writes words to stdout, one line each, from any thread.

    stdout belongs to the words alone: the constructor keeps the real stdout for itself and points ``sys.stdout``
    (and file descriptor 1) at stderr, so that a stray ``print`` in foreign code cannot break the stream.
    """

    def __init__(self) -> None:
        import os

        self._lock = threading.Lock()
        self._out: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
        os.dup2(2, 1)
        sys.stdout = sys.stderr

    def say(self, word: str, **fields: Any) -> None:
        line = encode(word, **fields)
        with self._lock:
            self._out.write(line)
            self._out.flush()

    def log(self, level: str, source: str, text: str) -> None:
        self.say("log", level=level, source=source, text=text, at=time.time())


def encode(word: str, **fields: Any) -> str:
    """One line, newline included."""
    return json.dumps({"word": word, **fields}, separators=(",", ":")) + "\n"


def decode(line: str | bytes) -> dict[str, Any] | None:
    """The word's fields, ``word`` among them; None for a line that is not one."""
    try:
        value = json.loads(line)
    except (ValueError, UnicodeDecodeError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("word"), str) else None
