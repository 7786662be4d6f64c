"""The window's connection: it greets, watches, calls, comes back, and says what is wrong."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PySide6.QtCore import QObject
from pytestqt.qtbot import QtBot

from octopus_desktop.gui.client import Client
from octopus_desktop.gui.models.store import Store
from octopus_desktop.system.endpoint import token_path
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from tests.gui.sample_daemon import SampleDaemon

MS = 15_000


@contextmanager
def make_client(tmp_path: Path, daemon: SampleDaemon | None) -> Iterator[tuple[Client, Store]]:
    client, store = Client(tmp_path / "run" / "daemon.sock"), Store()
    client.event_received.connect(store.apply)
    store.gap.connect(client.resync)
    client.start()
    try:
        yield client, store
    finally:
        client.close()
        if daemon is not None:
            daemon.stop()


def make_daemon(tmp_path: Path) -> SampleDaemon:
    return SampleDaemon(tmp_path / "run" / "daemon.sock")


def test_a_snapshot_arrives_and_events_change_it(qtbot: QtBot, tmp_path: Path) -> None:
    daemon = make_daemon(tmp_path).start()
    with make_client(tmp_path, daemon) as (client, store):
        qtbot.waitUntil(lambda: store.loaded, timeout=MS)
        assert client.is_connected and set(store.runs) == {run.id for run in daemon.snapshot.runs}
        run = pb.Run()
        run.CopyFrom(daemon.snapshot.runs[0])
        run.round = 14
        with qtbot.waitSignal(store.changed, timeout=MS) as told:
            daemon.put("run", run)
        assert told.args == ["run", run.id] and store.runs[run.id].round == 14
        with qtbot.waitSignal(store.removed, timeout=MS):
            daemon.push(removed=pb.Removed(kind="run", id=run.id))
        assert run.id not in store.runs


def test_the_last_events_stand_in_order_however_they_came() -> None:
    store = Store()
    tail = [pb.AuditEntry(seq=seq) for seq in (3, 2, 1)]
    store.apply(pb.Event(number=1, snapshot=pb.Snapshot(audit_tail=tail)))
    store.apply(pb.Event(number=2, audit=pb.AuditEntry(seq=4)))
    assert [entry.seq for entry in store.audit_tail] == [1, 2, 3, 4]


def test_a_missed_event_is_noticed_and_mended_by_a_fresh_snapshot(qtbot: QtBot, tmp_path: Path) -> None:
    daemon = make_daemon(tmp_path).start()
    with make_client(tmp_path, daemon) as (_client, store):
        qtbot.waitUntil(lambda: store.loaded, timeout=MS)
        daemon.snapshot.daemon.organisation = "Renamed Clinic"
        with qtbot.waitSignals([store.gap, store.reset], timeout=MS):
            daemon.push(skip=3, notice=pb.Notice(text="lost among the others"))
        assert store.daemon.organisation == "Renamed Clinic"
        with qtbot.waitSignal(store.notice, timeout=MS):
            daemon.push(notice=pb.Notice(text="and on it goes"))


def test_a_restarted_daemon_is_met_again_with_a_fresh_snapshot(qtbot: QtBot, tmp_path: Path) -> None:
    daemon = make_daemon(tmp_path).start()
    with make_client(tmp_path, daemon) as (client, store):
        qtbot.waitUntil(lambda: store.loaded, timeout=MS)
        first_boot = client.boot_id
        with qtbot.waitSignal(client.disconnected, timeout=MS) as away:
            daemon.stop()
        assert away.args[0].code == "OCT-DAEMON-AWAY" and not client.is_connected
        del daemon.snapshot.runs[:]
        with qtbot.waitSignals([client.connected, store.reset], timeout=MS):
            daemon.start()
        assert client.boot_id != first_boot and store.runs == {}


def test_a_daemon_that_is_not_there_is_told_once(qtbot: QtBot, tmp_path: Path) -> None:
    with make_client(tmp_path, None) as (client, _store):
        told: list[UserError] = []
        client.disconnected.connect(told.append)
        qtbot.waitUntil(lambda: bool(told), timeout=MS)
        client.retry()
        failed: list[UserError] = []
        client.call("Runs.Pause", pb.ById(id="x"), None, failed.append)
        qtbot.waitUntil(lambda: bool(failed), timeout=MS)
        assert failed[0].code == "OCT-DAEMON-AWAY" and "octopus daemon start" in failed[0].next_step
        assert len(told) == 1


def test_a_call_gives_its_reply_or_the_daemons_own_error(qtbot: QtBot, tmp_path: Path) -> None:
    daemon = make_daemon(tmp_path).start()
    with make_client(tmp_path, daemon) as (client, store):
        qtbot.waitUntil(lambda: store.loaded, timeout=MS)
        replies: list[pb.Run] = []
        client.call("Runs.Pause", pb.ById(id=daemon.snapshot.runs[0].id), replies.append)
        qtbot.waitUntil(lambda: bool(replies), timeout=MS)
        assert replies[0].state == "paused"
        assert all(request.request_id for name, request in daemon.calls if name == "Runs.Pause")
        with qtbot.waitSignal(client.failed, timeout=MS) as told:
            client.call("Runs.Pause", pb.ById(id="no such run"))
        assert told.args[0].code == "OCT-RUN-UNKNOWN"


def test_callbacks_run_on_the_gui_thread_and_not_for_an_owner_that_is_gone(qtbot: QtBot, tmp_path: Path) -> None:
    daemon = make_daemon(tmp_path).start()
    with make_client(tmp_path, daemon) as (client, store):
        qtbot.waitUntil(lambda: store.loaded, timeout=MS)
        threads: list[threading.Thread] = []
        owner = QObject()
        request = pb.LogPageRequest(limit=1)
        client.call("Logs.Page", request, lambda _reply: threads.append(threading.current_thread()), owner=owner)
        owner.deleteLater()
        client.call("Logs.Page", request, lambda _reply: threads.append(threading.current_thread()))
        qtbot.waitUntil(lambda: bool(threads), timeout=MS)
        assert threads == [threading.main_thread()]


def test_a_stream_goes_on_until_it_is_cancelled(qtbot: QtBot, tmp_path: Path) -> None:
    daemon = make_daemon(tmp_path).start()
    with make_client(tmp_path, daemon) as (client, store):
        qtbot.waitUntil(lambda: store.loaded, timeout=MS)
        got: list[pb.RunUpdate] = []
        stream = client.stream("Runs.Follow", pb.ById(id=daemon.snapshot.runs[0].id), got.append)
        qtbot.waitUntil(lambda: len(got) >= 2, timeout=MS)
        stream.cancel()
        count = len(got)
        done: list[object] = []
        client.call("Logs.Page", pb.LogPageRequest(limit=1), done.append)
        qtbot.waitUntil(lambda: bool(done), timeout=MS)
        assert len(got) == count


def test_a_daemon_of_another_protocol_can_be_read_but_not_commanded(qtbot: QtBot, tmp_path: Path) -> None:
    daemon = make_daemon(tmp_path)
    daemon.protocol = 7
    daemon.start()
    with make_client(tmp_path, daemon) as (client, store):
        with qtbot.waitSignals([client.read_only, store.reset], timeout=MS):
            pass
        failed: list[UserError] = []
        client.call("Runs.Stop", pb.StopLocalRequest(id="x"), None, failed.append)
        qtbot.waitUntil(lambda: bool(failed), timeout=MS)
        assert failed[0].code == "OCT-DAEMON-PROTOCOL" and daemon.calls[-1][0] != "Runs.Stop"
        read: list[object] = []
        client.call("Audit.Page", pb.AuditPageRequest(limit=1), read.append)
        qtbot.waitUntil(lambda: bool(read), timeout=MS)


def test_a_wrong_token_is_told_as_such(qtbot: QtBot, tmp_path: Path) -> None:
    daemon = make_daemon(tmp_path).start()
    token_path(daemon.socket).write_text("another")
    with make_client(tmp_path, daemon) as (client, _store):
        with qtbot.waitSignal(client.disconnected, timeout=MS) as told:
            pass
        assert told.args[0].code == "OCT-DAEMON-TOKEN"


def test_references_to_none_and_booleans_do_not_fall(qtbot: QtBot, tmp_path: Path) -> None:
    """PySide 6.12 loses them on CPython 3.11 and kills the interpreter after a while: this guards the pin."""
    store = Store()
    seen = []
    store.changed.connect(lambda *what: seen.append(what))
    store.apply(pb.Event(number=1, snapshot=pb.Snapshot()))
    gc.collect()
    before = [sys.getrefcount(value) for value in (None, True, False)]
    for number in range(2, 5002):
        store.apply(pb.Event(number=number, daemon=pb.DaemonStatus(paused=bool(number % 2))))
        qtbot.wait(0) if number % 1000 == 0 else None
        store.blockSignals(False)
    after = [sys.getrefcount(value) for value in (None, True, False)]
    assert len(seen) == 5000
    assert all(new > old - 500 for old, new in zip(before, after, strict=True)), (before, after)
