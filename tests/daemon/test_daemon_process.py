"""A real daemon process over its socket: setup, nodes, datasets, tokens, one at a time, kill and restart, Watch."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet

from octopus_desktop.daemon.local_api.base import status_of
from octopus_desktop.identity.keys import SigningKey
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from tests.daemon.silo_process import SiloProcess, silo_process


def dataset(path: Path, alias: str = "heart", kind: str = "", request_id: str = "") -> pb.RegisterDatasetRequest:
    return pb.RegisterDatasetRequest(alias=alias, path=str(path), kind=kind, request_id=request_id)


async def fails(silo: SiloProcess, method: str, request: Any) -> str:
    with pytest.raises(UserError) as error:
        await silo.call(method, request)
    assert error.value.what and error.value.next_step, "an error names what failed and the next step"
    return error.value.code


async def test_greeting_setup_and_the_socket_is_private(tmp_path: Path) -> None:
    async with silo_process(tmp_path) as silo:
        hello = await silo.call("Daemon.Hello", pb.LocalHelloRequest(protocol_min=1, protocol_max=1, client="t"))
        assert (hello.protocol, hello.pid, hello.home) == (1, silo.pid, str(silo.home.root))
        newer = pb.LocalHelloRequest(protocol_min=2, protocol_max=3, client="t")
        assert await fails(silo, "Daemon.Hello", newer) == "OCT-DAEMON-PROTOCOL"
        assert stat.S_IMODE(silo.home.socket.stat().st_mode) & 0o077 == 0
        assert stat.S_IMODE(silo.home.runtime.stat().st_mode) == 0o700
        assert stat.S_IMODE(silo.home.database.stat().st_mode) == 0o600

        status = await silo.call("Setup.Configure", silo.configuration())
        assert status.configured and status.secrets == "passphrase file" and status.approvers[0].kind == "person"
        other = silo.configuration()
        other.approver_key = SigningKey.generate().public
        assert await fails(silo, "Setup.Configure", other) == "OCT-STATE-EXISTS"
        other.approver_key = b"short"
        assert await fails(silo, "Setup.Configure", other) == "OCT-CONFIG-INVALID"
        assert (await silo.call("Audit.Verify")).whole
        rss = psutil.Process(silo.pid).memory_info().rss
        assert rss < 80 << 20, f"an idle daemon takes {rss >> 20} MiB"
        maps = Path(f"/proc/{silo.pid}/maps").read_text()
        assert not [name for name in ("torch", "pyarrow", "sqlalchemy") if f"/{name}/" in maps]


async def test_without_the_token_nobody_gets_in(tmp_path: Path) -> None:
    async with silo_process(tmp_path) as silo:
        for token in ("", "wrong"):
            silo.connect(token)
            assert await fails(silo, "Setup.Configure", silo.configuration()) == "OCT-DAEMON-TOKEN"
            with pytest.raises(UserError) as error:
                await silo.snapshot()
            assert error.value.code == "OCT-DAEMON-TOKEN"
        silo.connect()
        assert not (await silo.snapshot()).daemon.configured


async def test_a_second_daemon_and_a_newer_state_are_refused(tmp_path: Path) -> None:
    async with silo_process(tmp_path) as silo:
        import subprocess
        import sys

        command = [sys.executable, "-m", "octopus_desktop.daemon.main", "--home", str(silo.home.root)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 1 and "OCT-STATE-LOCKED" in done.stderr and str(silo.pid) in done.stderr
        assert await silo.start() == silo.pid  # starting again finds the one that runs
        await silo.kill()
        with sqlite3.connect(silo.home.database) as db:
            db.execute("PRAGMA user_version=999")
        with pytest.raises(UserError) as error:
            await silo.start()
        assert error.value.code == "OCT-STATE-NEWER"


async def test_a_home_that_cannot_be_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(UserError) as error:
        await SiloProcess(tmp_path).start()
    assert error.value.code == "OCT-CONFIG-INVALID"


async def test_datasets_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('age,"cost, EUR",ward,note\n63,1.5,A,\n,2,B,\n41,3e2,A,\n')
    table = pa.table({"age": [1, None, 3], "sick": [True, False, True], "x": [0.5, 1.5, None], "w": ["a", "b", "c"]})
    parquet.write_table(table, tmp_path / "b.parquet")
    np.savez(tmp_path / "c.npz", images=np.zeros((5, 8, 8), np.float32), labels=np.arange(5))
    (tmp_path / "d" / "cats").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "d" / "cats" / f"{number}.txt").write_text(str(number))
    async with silo_process(tmp_path) as silo:
        found = {}
        for alias, name in (("csv", "a.csv"), ("parquet", "b.parquet"), ("npz", "c.npz"), ("folder", "d")):
            got = await silo.call("Datasets.Register", dataset(tmp_path / name, alias))
            assert (got.kind, got.state, len(got.digest)) == (alias, "ok", 64)
            found[alias] = {c.name: (c.type, c.missing) for c in got.columns}, got.rows
        number, text = "number", "text"
        assert found["csv"] == (
            {"age": ("integer", 1), "cost, EUR": (number, 0), "ward": (text, 0), "note": (text, 3)},
            3,
        )
        assert found["parquet"] == (
            {"age": ("integer", 1), "sick": ("boolean", 0), "x": (number, 1), "w": (text, 0)},
            3,
        )
        assert found["npz"] == ({"images": (number, 0), "labels": ("integer", 0)}, 5)
        assert found["folder"] == ({}, 3)
        probed = await silo.call("Datasets.Probe", pb.ProbeRequest(path=str(tmp_path / "a.csv")))
        assert probed.rows == 3 and not probed.id and len((await silo.snapshot()).datasets) == 4


async def test_a_csv_whose_type_changes_far_down_is_read_right(tmp_path: Path) -> None:
    rows = [f"{n},{n},{n}" for n in range(200_000)]
    rows[150_000], rows[199_999] = "1,1.5,1", "2,2,late"
    (tmp_path / "long.csv").write_text("a,b,c\n" + "\n".join(rows))
    async with silo_process(tmp_path) as silo:
        got = await silo.call("Datasets.Register", dataset(tmp_path / "long.csv"))
        assert got.rows == 200_000 and [c.type for c in got.columns] == ["integer", "number", "text"]


async def test_data_that_cannot_be_taken(tmp_path: Path) -> None:
    (tmp_path / "ok.csv").write_text("a\n1\n")
    (tmp_path / "ragged.csv").write_text("a,b\n1\n1,2,3\n")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01" * 100)
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not really")
    np.savez(tmp_path / "pickle.npz", objects=np.array([{"a": 1}], dtype=object))
    async with silo_process(tmp_path) as silo:
        for name in ("ragged.csv", "binary.csv", "empty.csv", "bad.parquet", "bad.npz", "pickle.npz"):
            assert await fails(silo, "Datasets.Register", dataset(tmp_path / name)) == "OCT-DATA-KIND", name
        assert await fails(silo, "Datasets.Register", dataset(tmp_path / "no.csv")) == "OCT-DATA-MISSING"
        assert await fails(silo, "Datasets.Register", dataset(Path("ok.csv"))) == "OCT-DATA-MISSING"
        assert await fails(silo, "Datasets.Register", dataset(tmp_path / "passphrase")) == "OCT-DATA-KIND"
        assert await fails(silo, "Datasets.Register", dataset(tmp_path / "ok.csv", kind="tsv")) == "OCT-DATA-KIND"
        assert await fails(silo, "Datasets.Register", dataset(tmp_path / "ok.csv", "no good")) == "OCT-DATA-ALIAS"
        assert (await silo.call("Datasets.Register", dataset(tmp_path / "ok.csv"))).state == "ok"
        assert await fails(silo, "Datasets.Register", dataset(tmp_path / "ok.csv")) == "OCT-DATA-ALIAS"
        assert await fails(silo, "Datasets.Check", pb.ById(id="nobody")) == "OCT-DATA-ALIAS"


async def test_data_that_changes_moves_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a\n1\n")
    async with silo_process(tmp_path) as silo:
        one = await silo.call("Datasets.Register", dataset(path))
        path.write_text("a\n2\n")
        got = await silo.call("Datasets.Check", pb.ById(id=one.id))
        assert (got.state, got.error_code, got.digest) == ("changed", "OCT-DATA-CHANGED", one.digest)
        path.write_text("a\n1\n")
        assert (await silo.call("Datasets.Check", pb.ById(id=one.id))).state == "ok"
        path.rename(tmp_path / "b.csv")
        assert (await silo.call("Datasets.Check", pb.ById(id=one.id))).state == "missing"
        moved = await silo.call("Datasets.Relocate", pb.RelocateRequest(id=one.id, path=str(tmp_path / "b.csv")))
        assert (moved.state, moved.digest) == ("ok", one.digest)
        await silo.call("Datasets.Remove", pb.ById(id=one.id))
        assert not (await silo.snapshot()).datasets and (tmp_path / "b.csv").exists()
        page = await silo.call("Audit.Page", pb.AuditPageRequest(action="dataset."))
        actions = [entry.action for entry in reversed(page.entries)]
        assert actions == [
            "dataset.registered", "dataset.changed", "dataset.missing", "dataset.relocated", "dataset.removed",
        ]  # fmt: skip
        assert json.loads(page.entries[-1].detail_json)["digest"] == one.digest


async def test_a_repeated_command_gives_the_same_answer_also_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a\n1\n")
    async with silo_process(tmp_path) as silo:
        request = dataset(tmp_path / "a.csv", request_id=new_id())
        first, second = await asyncio.gather(
            silo.call("Datasets.Register", request), silo.call("Datasets.Register", request)
        )
        assert first == second
        boot = (await silo.snapshot()).daemon.boot_id
        await silo.kill()
        await silo.start()
        assert await silo.call("Datasets.Register", request) == first
        snap = await silo.snapshot()
        assert len(snap.datasets) == 1 and snap.daemon.boot_id != boot
        reused = pb.RegisterNodeRequest(request_id=request.request_id)
        assert await fails(silo, "Nodes.Register", reused) == "OCT-CONFIG-INVALID"


async def test_a_watch_is_resumed_and_a_new_life_starts_afresh(tmp_path: Path) -> None:
    async with silo_process(tmp_path) as silo:
        stream = silo.stream("Daemon.Watch", pb.WatchRequest())
        first = await anext(stream)
        boot = first.snapshot.daemon.boot_id
        await silo.call("Setup.Configure", silo.configuration())
        numbers = [(await anext(stream)).number for _ in range(2)]
        assert numbers == [first.number + 1, first.number + 2]
        again = await anext(silo.stream("Daemon.Watch", pb.WatchRequest(boot_id=boot, after=numbers[0])))
        assert again.number == numbers[1] and not again.HasField("snapshot")
        await silo.kill()
        await silo.start()
        fresh = await anext(silo.stream("Daemon.Watch", pb.WatchRequest(boot_id=boot, after=numbers[1])))
        assert fresh.snapshot.daemon.configured and fresh.snapshot.daemon.boot_id != boot


async def test_the_node_is_measured_only_while_somebody_watches(tmp_path: Path) -> None:
    async with silo_process(tmp_path) as silo:
        node = await silo.call("Nodes.Register", pb.RegisterNodeRequest(name="box", request_id=new_id()))
        assert (node.name, node.local, node.state) == ("box", True, "ready") and node.cpu_count and node.torch
        seen = await silo.until(lambda s: next((n for n in s.nodes if n.seen_at > node.seen_at), None), 10)
        assert seen.ram_used and seen.disk_free
        drained = await silo.call("Nodes.Drain", pb.DrainRequest(id=node.id, drain=True))
        assert drained.state == "drained"
        assert (await silo.call("Nodes.Drain", pb.DrainRequest(id=node.id))).state == "ready"
        assert await fails(silo, "Nodes.Drain", pb.DrainRequest(id="x")) == "OCT-NODE-UNKNOWN"


async def test_shutdown_ends_it_and_tampering_with_the_record_shows(tmp_path: Path) -> None:
    async with silo_process(tmp_path) as silo:
        await silo.set_up()
        await silo.call("Daemon.Shutdown", pb.ShutdownRequest(request_id=new_id()))
        await asyncio.to_thread(psutil.wait_procs, [p for p in psutil.process_iter() if p.pid == silo.pid], 10)
        with sqlite3.connect(silo.home.database) as db:
            db.execute("UPDATE audit SET actor='nobody' WHERE seq=1")
        await silo.start()
        verdict = await silo.call("Audit.Verify")
        assert not verdict.whole and verdict.first_bad == 1 and "changed" in verdict.why


async def test_logs_are_paged_and_followed(tmp_path: Path) -> None:
    async with silo_process(tmp_path) as silo:
        tail = silo.stream("Logs.Tail", pb.LogPageRequest(limit=10))
        (tmp_path / "x.csv").write_text("a\n")
        with pytest.raises(Exception):  # noqa: B017 - a bug leaves as INTERNAL; here: a request the proto cannot hold
            await silo.call("Nodes.Nothing", pb.Empty())
        assert (await silo.call("Logs.Page", pb.LogPageRequest(text="no such words"))).total == 0
        await tail.aclose()


def test_errors_have_the_status_that_fits() -> None:
    import grpc

    assert status_of("OCT-RUN-UNKNOWN") is grpc.StatusCode.NOT_FOUND
    assert status_of("OCT-APPROVAL-STATE") is grpc.StatusCode.FAILED_PRECONDITION
    assert status_of("OCT-DATA-KIND") is grpc.StatusCode.INVALID_ARGUMENT


def test_a_locked_store_of_secrets_does_not_stop_the_daemon(tmp_path: Path) -> None:
    async def go() -> None:
        async with silo_process(tmp_path, start=False) as silo:
            hidden = {"OCTOPUS_PASSPHRASE_FILE": str(tmp_path / "nowhere"), "OCTOPUS_SECRETS": "file"}
            await silo.start(**hidden)
            assert (await silo.snapshot()).daemon.secrets.startswith("locked (OCT-SECRET")
            status = await silo.call("Setup.Configure", silo.configuration())
            assert status.configured

    asyncio.run(go())
    assert os.path.exists(tmp_path / "home")  # noqa: PTH110
