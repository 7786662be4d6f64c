"""What a run leaves behind: rounds, measured points, timeline bars, messages that left, bytes. Decides nothing.

Points, spans and round rows are collected and written together ten times a second at most, and go to followers in the
same tick.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

from google.protobuf.message import Message

from octopus_desktop.daemon.core import Silo, today
from octopus_desktop.daemon.hub import COALESCE_S, Feed
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb.envelope_pb2 import Span

POINTS_KEPT = 20_000
SPANS_KEPT = 5_000
FOLLOW_QUEUE = 600


class Record:
    def __init__(self, silo: Silo) -> None:
        self._silo = silo
        self._points: list[tuple[str, bytes]] = []
        self._spans: list[tuple[str, bytes]] = []
        self._updates: dict[str, pb.RunUpdate] = {}
        self._followers: dict[str, set[Feed[pb.RunUpdate]]] = {}
        self._rounds: dict[tuple[str, int], pb.RunRound] = {}
        self._traffic: dict[str, list[int]] = {}
        self._timer: asyncio.TimerHandle | None = None

    # writing

    def points(self, run_id: str, rows: Iterable[Any]) -> None:
        """Rows of [name, source, round, step, value, at], as a runner sends them; malformed ones are dropped."""
        for row in rows:
            try:
                name, source, round_, step, value, at = row
                point = pb.Point(
                    name=str(name), source=str(source), round=int(round_), step=int(step), value=float(value),
                    at=float(at),
                )  # fmt: skip
            except (TypeError, ValueError):
                continue
            self._points.append((run_id, point.SerializeToString()))
            self._update(run_id).points.append(point)

    def span(self, run_id: str, round_: int, span: Span) -> None:
        entry = pb.RoundSpan(round=round_, span=span)
        self._spans.append((run_id, entry.SerializeToString()))
        self._update(run_id).spans.append(entry)

    def bar(self, run_id: str, round_: int, lane: str, step: str, start: float, end: float) -> None:
        self.span(run_id, round_, Span(lane=lane, step=step, start=start, end=end))

    def round(self, run_id: str, number: int) -> pb.RunRound:
        """The row of a round, to be changed in place; call ``touch`` afterwards."""
        key = (run_id, number)
        if key not in self._rounds:
            row = self._silo.db.one("SELECT body FROM run_rounds WHERE run_id=? AND round=?", run_id, number)
            self._rounds[key] = pb.RunRound.FromString(row[0]) if row else pb.RunRound(round=number)
        return self._rounds[key]

    def touch(self, run_id: str, number: int) -> None:
        """Store a round's row now (joins the caller's transaction) and tell the followers."""
        row = self.round(run_id, number)
        with self._silo.db.transaction():
            self._silo.db.execute(
                "INSERT OR REPLACE INTO run_rounds VALUES(?,?,?)", run_id, number, row.SerializeToString()
            )
        update = self._update(run_id)
        for place, known in enumerate(update.rounds):
            if known.round == number:
                del update.rounds[place]
                break
        update.rounds.append(row)

    def left(self, envelope_id: str, run_id: str, entry: pb.Left) -> bool:
        """Note a message that is about to leave. False when it was noted before: then only its carrier is noted anew.
        Inside ``change``."""
        cursor = self._silo.db.execute(
            "INSERT OR IGNORE INTO run_left VALUES(?,?,?,?,NULL)",
            envelope_id,
            run_id,
            entry.at,
            entry.SerializeToString(),
        )
        if cursor.rowcount == 1:
            self._update(run_id).left.append(entry)
        else:
            body = self._silo.db.one("SELECT body FROM run_left WHERE envelope_id=?", envelope_id)[0]
            known = pb.Left.FromString(body)
            known.carrier = entry.carrier
            self._silo.db.execute(
                "UPDATE run_left SET body=? WHERE envelope_id=?", known.SerializeToString(), envelope_id
            )
        return cursor.rowcount == 1

    def has_left(self, envelope_id: str) -> bool:
        return self._silo.db.one("SELECT 1 FROM run_left WHERE envelope_id=?", envelope_id) is not None

    def receipt(self, envelope_id: str) -> None:
        self._silo.db.execute(
            "UPDATE run_left SET receipt_at=? WHERE envelope_id=? AND receipt_at IS NULL", time.time(), envelope_id
        )

    def traffic(self, federation_id: str, bytes_in: int, bytes_out: int) -> None:
        """Count bytes of today; written with the next tick."""
        counted = self._traffic.setdefault(federation_id, [0, 0])
        counted[0] += bytes_in
        counted[1] += bytes_out
        self._soon()

    def run_changed(self, run: pb.Run) -> None:
        self._update(run.id).run.CopyFrom(run)

    # reading

    def detail(self, run: pb.Run, config_json: str) -> pb.RunDetail:
        self.flush()
        rows = self._silo.db.rows
        return pb.RunDetail(
            run=run,
            config_json=config_json,
            rounds=_parsed(pb.RunRound, rows("SELECT body FROM run_rounds WHERE run_id=? ORDER BY round", run.id)),
            points=_parsed(pb.Point, rows("SELECT body FROM run_points WHERE run_id=? ORDER BY seq", run.id)),
            spans=_parsed(pb.RoundSpan, rows("SELECT body FROM run_spans WHERE run_id=? ORDER BY seq", run.id)),
            left=_parsed(pb.Left, rows("SELECT body FROM run_left WHERE run_id=? ORDER BY at", run.id)),
        )

    async def follow(self, run: pb.Run) -> AsyncIterator[pb.RunUpdate]:
        """The run with its rounds so far, then what comes; ends when the run has ended."""
        self.flush()
        feed: Feed[pb.RunUpdate] = Feed(FOLLOW_QUEUE)
        rows = self._silo.db.rows("SELECT body FROM run_rounds WHERE run_id=? ORDER BY round", run.id)
        feed.put(pb.RunUpdate(run=run, rounds=_parsed(pb.RunRound, rows)))
        self._followers.setdefault(run.id, set()).add(feed)
        try:
            async for update in feed:
                yield update
                if update.HasField("run") and update.run.state in ("completed", "stopped", "failed"):
                    return
        finally:
            self._followers[run.id].discard(feed)
            if not self._followers[run.id]:
                del self._followers[run.id]

    # the tick

    def flush(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        points, self._points = self._points, []
        spans, self._spans = self._spans, []
        updates, self._updates = self._updates, {}
        traffic, self._traffic = self._traffic, {}
        if points or spans or traffic:
            try:
                self._store(points, spans, traffic)
            except UserError:
                pass  # a full disk costs measured points, never the run; followers still see them
        for run_id, update in updates.items():
            for feed in self._followers.get(run_id, ()):
                feed.put(update)
        if len(self._rounds) > 64:
            self._rounds.clear()

    def _store(self, points: list[Any], spans: list[Any], traffic: dict[str, list[int]]) -> None:
        db = self._silo.db
        with db.transaction(durable=False):
            db.write_many("INSERT INTO run_points(run_id,body) VALUES(?,?)", points)
            db.write_many("INSERT INTO run_spans(run_id,body) VALUES(?,?)", spans)
            for table, rows, kept in (("run_points", points, POINTS_KEPT), ("run_spans", spans, SPANS_KEPT)):
                for run_id in {run_id for run_id, _ in rows}:
                    db.execute(
                        f"DELETE FROM {table} WHERE run_id=? AND seq<="
                        f"coalesce((SELECT seq FROM {table} WHERE run_id=? ORDER BY seq DESC LIMIT 1 OFFSET ?),0)",
                        run_id,
                        run_id,
                        kept,
                    )
            for federation_id, (bytes_in, bytes_out) in traffic.items():
                db.execute(
                    "INSERT INTO traffic VALUES(?,?,?,?) ON CONFLICT(day,federation_id) DO UPDATE SET "
                    "bytes_in=bytes_in+excluded.bytes_in, bytes_out=bytes_out+excluded.bytes_out",
                    today(),
                    federation_id,
                    bytes_in,
                    bytes_out,
                )

    def _update(self, run_id: str) -> pb.RunUpdate:
        self._soon()
        return self._updates.setdefault(run_id, pb.RunUpdate())

    def _soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(COALESCE_S, self.flush)


def _parsed(message: type[Message], rows: list[Any]) -> list[Any]:
    return [message.FromString(body) for (body,) in rows]
