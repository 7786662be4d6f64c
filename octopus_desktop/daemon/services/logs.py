"""The log table: lines of the daemon and of runs, bounded in number. Knows no run's state."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.hub import Feed
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

KEPT_LINES = 100_000
TRIM_EVERY = 2_000
LINE_CHARS = 4_000
FLUSH_S = 0.1
LEVELS = ("debug", "info", "warning", "error")


class Logs:
    """Lines are collected and written together ten times a second at most; a crash may lose the last tenth."""

    def __init__(self, silo: Silo) -> None:
        self._silo = silo
        self._waiting: list[pb.LogLine] = []
        self._timer: asyncio.TimerHandle | None = None
        self._feeds: set[Feed[pb.LogPageReply]] = set()
        (self._seq,) = silo.db.one("SELECT coalesce(max(seq),0) FROM logs")
        self._trimmed = self._seq

    def add(self, level: str, source: str, text: str, run_id: str = "", at: float = 0.0) -> None:
        self._seq += 1
        level = level if level in LEVELS else "info"
        line = pb.LogLine(seq=self._seq, at=at or round(time.time(), 3), level=level, source=source, run_id=run_id)
        line.text = text[:LINE_CHARS]
        self._waiting.append(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Write what waits and tell the watchers."""
        if self._timer:
            self._timer.cancel()
        self._timer, lines, self._waiting = None, self._waiting, []
        if not lines:
            return
        try:
            self._silo.db.write_many(
                "INSERT OR REPLACE INTO logs VALUES(?,?,?,?,?,?)",
                [(line.seq, line.at, line.level, line.source, line.run_id, line.text) for line in lines],
            )
            if self._seq - self._trimmed > TRIM_EVERY:
                self._trimmed = self._seq
                with self._silo.db.transaction():
                    self._silo.db.execute("DELETE FROM logs WHERE seq<=?", self._seq - KEPT_LINES)
        except UserError:
            pass  # a full disk must not stop what is being logged about; the lines still reach whoever watches
        self._silo.hub.soon_logs(lines)
        for feed in self._feeds:
            feed.put(pb.LogPageReply(lines=lines))

    def page(self, request: pb.LogPageRequest, limit: int) -> pb.LogPageReply:
        """Oldest first within the page; the page ends below ``before``, or at the newest line."""
        self.flush()
        where, values = "1=1", list[Any]()
        if request.level in LEVELS[1:]:
            wanted = LEVELS[LEVELS.index(request.level) :]
            where += f" AND level IN ({','.join('?' * len(wanted))})"
            values += wanted
        if request.run_id:
            where += " AND run_id=?"
            values.append(request.run_id)
        if request.text:
            where += " AND instr(lower(text),?)"
            values.append(request.text.lower())
        (total,) = self._silo.db.one(f"SELECT count(*) FROM logs WHERE {where}", *values)
        if request.before:
            where += " AND seq<?"
            values.append(request.before)
        rows = self._silo.db.rows(
            f"SELECT seq,at,level,source,run_id,text FROM logs WHERE {where} ORDER BY seq DESC LIMIT ?", *values, limit
        )
        lines = [pb.LogLine(seq=q, at=t, level=v, source=s, run_id=r, text=x) for q, t, v, s, r, x in reversed(rows)]
        return pb.LogPageReply(lines=lines, total=total)

    async def tail(self, request: pb.LogPageRequest, limit: int) -> AsyncIterator[pb.LogPageReply]:
        feed: Feed[pb.LogPageReply] = Feed(500)
        feed.put(self.page(request, limit))
        self._feeds.add(feed)
        try:
            async for page in feed:
                lines = [line for line in page.lines if _fits(line, request)]
                if lines or page.total:
                    yield pb.LogPageReply(lines=lines, total=page.total)
        finally:
            self._feeds.discard(feed)


def _fits(line: pb.LogLine, request: pb.LogPageRequest) -> bool:
    if request.level in LEVELS and LEVELS.index(line.level) < LEVELS.index(request.level):
        return False
    if request.run_id and line.run_id != request.run_id:
        return False
    return request.text.lower() in line.text.lower()


class LogHandler(logging.Handler):
    """Python's logging, into the table. Lines from other threads come through the loop."""

    def __init__(self, logs: Logs, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(logging.INFO)
        self._logs, self._loop = logs, loop

    def emit(self, record: logging.LogRecord) -> None:
        level = {"CRITICAL": "error"}.get(record.levelname, record.levelname.lower())
        source = record.name.removeprefix("octopus_desktop.")
        text = self.format(record)
        try:
            self._loop.call_soon_threadsafe(self._logs.add, level, source, text)
        except RuntimeError:
            pass  # the loop has ended
