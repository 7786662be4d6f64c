"""``octopus audit …``: who decided what, and what left."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from octopus_desktop.cli.common import Api, daemon_api, emit, json_option, say, table, to_dict, when

PAGE = 500


@click.group("audit")
def cli() -> None:
    """The tamper-evident record: list, verify, export."""


def _entries(api: Api, limit: int = 0, **filters: Any) -> Iterator[Any]:
    """Newest first, page by page."""
    from octopus_desktop.wire.pb.local_pb2 import AuditPageRequest

    before, left = 0, limit or sys.maxsize
    while left > 0:
        page = api.call("Audit.Page", AuditPageRequest(before=before, limit=min(PAGE, left), **filters)).entries
        yield from page
        if len(page) < min(PAGE, left):
            return
        left -= len(page)
        before = page[-1].seq


@cli.command("list")
@click.option("--limit", type=click.IntRange(1), default=50)
@click.option("--action", default="", help="Only this action.")
@click.option("--run", default="", help="Only this run.")
@click.option("--text", default="", help="Only entries that hold this text.")
@json_option
def list_(limit: int, action: str, run: str, text: str) -> None:
    """The newest entries."""
    entries = list(_entries(daemon_api(), limit, action=action, run_id=run, text=text))
    emit(
        entries,
        lambda: table(
            "",
            ["no", "at", "who", "what", "on", "detail"],
            [(e.seq, when(e.at), e.actor, e.action, e.subject, e.detail_json) for e in entries],
            right=["no"],
        ),
    )


@cli.command("verify")
@json_option
def verify() -> None:
    """Prove that the record is whole: every entry hashes to what the next one says, every signed head fits."""
    from octopus_desktop.wire.pb.local_pb2 import Empty

    reply = daemon_api().call("Audit.Verify", Empty(), timeout=None)
    emit(
        reply,
        lambda: say(
            f"The record is whole: {reply.entries} entries, head {reply.head.hex()[:16]}."
            if reply.whole
            else f"The record is BROKEN at entry {reply.first_bad}: {reply.why}"
        ),
    )
    if not reply.whole:
        sys.exit(1)


@cli.command("export")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def export(path: Path) -> None:
    """Write the whole record as CSV or JSON, by the file's ending."""
    rows = [to_dict(entry) for entry in _entries(daemon_api())][::-1]
    with path.open("w", newline="") as file:
        if path.suffix == ".json":
            json.dump(rows, file, indent=2)
        else:
            fields = ["seq", "at", "actor", "action", "subject", "detail_json", "hash"]
            writer = csv.DictWriter(file, fields)
            writer.writeheader()
            writer.writerows({name: row[name] for name in fields} for row in rows)
    emit({"path": str(path), "entries": len(rows)}, lambda: say(f"{len(rows)} entries written to {path}."))
