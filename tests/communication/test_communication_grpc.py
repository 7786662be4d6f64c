"""The gRPC carrier against the contract, over real sockets on loopback, through a proxy that cuts and slows."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from octopus_desktop.communication import grpc_silo
from octopus_desktop.communication.contract import SERVER, LinkPhase
from octopus_desktop.communication.grpc_server import GrpcServerEnd
from octopus_desktop.communication.grpc_silo import GrpcSiloEnd
from octopus_desktop.communication.grpc_wire import (
    SERVER_OPTIONS,
    ClientCredentials,
    client_channel,
    decode_chunk,
    encode_data,
    encode_head,
    server_credentials,
    to_user_error,
)
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef
from octopus_desktop.wire.pb.federation_pb2 import Chunk, GetRequest
from tests.communication.conformance import fail_once, revoked, running
from tests.communication.mischief import Mischief
from tests.communication.parts import ANSWER, MIB, Keys, Owner, authenticate
from tests.communication.peers import PeerProcess
from tests.communication.proxy import Proxy
from tests.communication.remote import NetworkConformance


class GrpcWiring:
    def __init__(self, root: Path, proxy: Proxy, **options: Any) -> None:
        self.root, self.proxy = root, proxy
        self.keys = Keys()
        self.server = Owner(root / "server", "server", self.keys)
        self.grpc_server = grpc.aio.server(options=SERVER_OPTIONS)
        self.port = self.grpc_server.add_secure_port("127.0.0.1:0", server_credentials(**self.keys.server_pems()))
        proxy.target = self.port
        self.server_end = GrpcServerEnd(
            server=self.grpc_server,
            owner=self.server,
            authenticate=self._authenticate,
            version="1",
            boot_id="s",
            **options,
        )

    def _authenticate(self, auth_context: dict[str, Sequence[bytes]]) -> str:
        name = authenticate(auth_context)
        if name in self.keys.revoked:
            raise revoked()
        return name

    def owner(self, name: str) -> Owner:
        self.keys.silo(name)
        return Owner(self.root / name, name, self.keys)

    def silo_end(
        self,
        owner: Owner,
        *,
        credentials: ClientCredentials | None = None,
        keys: Keys | None = None,
        port: int = 0,
        **options: Any,
    ) -> GrpcSiloEnd:
        return GrpcSiloEnd(
            address=f"127.0.0.1:{port or self.proxy.port}",
            credentials=credentials or (keys or self.keys).silo(owner.name),
            owner=owner,
            version="1",
            boot_id="c",
            **options,
        )

    def cut(self) -> None:
        self.proxy.cut()

    def disturb(self, mischief: Mischief | None) -> None:
        self.proxy.mischief = mischief  # of the TLS stream: each ends the connection, and nothing gets through

    def freeze(self, frozen: bool) -> None:
        self.proxy.frozen = frozen

    def slow(self, rate: int) -> None:
        self.proxy.rate = rate

    async def peer(self, root: Path) -> PeerProcess:
        peer = await PeerProcess.start("tests.communication.grpc_peer", root, self.keys)
        self.proxy.target = int(peer.said)
        return peer


class TestGrpc(NetworkConformance):
    @asynccontextmanager
    async def wiring(self, tmp_path: Path, **options: Any) -> AsyncIterator[GrpcWiring]:
        async with Proxy(0) as proxy:
            wiring = GrpcWiring(tmp_path, proxy, **options)
            await wiring.server_end.start()
            await wiring.grpc_server.start()
            try:
                yield wiring
            finally:
                await wiring.server_end.stop(1)
                await wiring.grpc_server.stop(0)

    @pytest.mark.parametrize("there", [0, 10_000, 40_000])
    async def test_a_small_blob_is_sent_unasked_and_goes_on_where_it_broke_off(
        self, tmp_path: Path, there: int
    ) -> None:
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            ref = alpha.blob(40_000)
            data = alpha.store.path(ref.digest).read_bytes()
            if there == ref.size:
                wiring.server.store.put(data)
            elif there:
                (wiring.server.store.root / "partial" / ref.digest).write_bytes(data[:there])
            alpha.post(SERVER, kind=ANSWER, blobs=[ref])
            async with running(wiring, alpha):
                await wiring.server.until(lambda: len(wiring.server.accepted) == 1)
            assert wiring.server.store.path(ref.digest).read_bytes() == data

    async def test_an_expired_certificate_is_named_as_such(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            old = wiring.keys.silo("alpha", valid_s=-1)
            async with running(wiring, alpha, credentials=old, wait_up=False) as silo:
                await alpha.until(lambda: silo.end.state.phase is LinkPhase.DOWN)
                assert silo.end.state.fault is not None and silo.end.state.fault.code == "OCT-CERT-EXPIRED"

    async def test_a_server_that_never_greets_counts_as_down(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(grpc_silo, "DIAL_S", 0.3)
        async with self.wiring(tmp_path) as wiring:
            wiring.proxy.frozen = True
            alpha = wiring.owner("alpha")
            async with running(wiring, alpha, wait_up=False) as silo:
                await alpha.until(lambda: silo.end.state.phase is LinkPhase.DOWN)
                fault = silo.end.state.fault
                assert fault is not None and fault.code == "OCT-LINK-DOWN" and "greet" in fault.why

    async def test_a_bug_behind_one_side_is_told_in_the_log_and_the_link_comes_back(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            for owner in (wiring.server, silo.owner):
                owner.before_accept = fail_once(owner)
            down = wiring.server.post("alpha")
            wiring.server_end.outbox_changed("alpha")
            await silo.owner.until(lambda: silo.owner.accepted == [down.id])
            up = silo.owner.post(SERVER, kind=ANSWER)
            silo.end.outbox_changed()
            await wiring.server.until(lambda: wiring.server.accepted == [up.id])
            assert sum("broke" in record.message for record in caplog.records) == 2

    async def test_a_transfer_that_begins_elsewhere_or_names_nothing_is_refused(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            ref = alpha.blob(MIB)
            channel = client_channel(f"127.0.0.1:{wiring.port}", wiring.keys.silo("alpha"))
            for first, code in (
                (encode_head(ref, 5, "run-a"), "OCT-BLOB-OFFSET"),
                (encode_data(b"no head"), "OCT-LINK-ENVELOPE"),
                (b"\xff\xff", "OCT-LINK-ENVELOPE"),
                (encode_head(BlobRef(digest="../../etc/passwd", size=1), 0, "run-a"), "OCT-BLOB-CORRUPT"),
            ):
                call: Any = channel.stream_unary("/octopus.v1.Carrier/Put")(iter([first]))
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert to_user_error(caught.value, "").code == code
            for wanted, code in ((ref, "OCT-BLOB-MISSING"), (BlobRef(digest="x"), "OCT-BLOB-CORRUPT")):
                get = channel.unary_stream("/octopus.v1.Carrier/Get", GetRequest.SerializeToString)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    async for _ in get(GetRequest(blob=wanted, run_id="run-a")):
                        pass
                assert to_user_error(caught.value, "").code == code
            await channel.close()

    async def test_only_tls_1_3_gets_in(self, tmp_path: Path) -> None:
        keys = Keys()
        mine = keys.silo("alpha")
        for name, pem in (("key", mine.key), ("chain", mine.chain), ("root", mine.root)):
            (tmp_path / f"{name}.pem").write_bytes(pem)
        peer = await PeerProcess.start("tests.communication.grpc_peer", tmp_path / "peer", keys)

        def dial(version: ssl.TLSVersion) -> str | None:
            context = ssl.create_default_context(cafile=tmp_path / "root.pem")
            context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
            context.maximum_version = version
            context.set_alpn_protocols(["h2"])
            with (
                socket.create_connection(("127.0.0.1", int(peer.said))) as raw,
                context.wrap_socket(raw, server_hostname="127.0.0.1") as secured,
            ):
                return secured.version()

        try:
            assert await asyncio.to_thread(dial, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(dial, ssl.TLSVersion.TLSv1_2)
        finally:
            await peer.kill()


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 1 << 20])
def test_data_chunks_are_protobuf_messages(size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    assert Chunk.FromString(encode_data(data)) == Chunk(data=data)
    assert bytes(decode_chunk(encode_data(data)).data) == data
    assert bytes(decode_chunk(Chunk(data=data).SerializeToString()).data) == data


def test_the_first_chunk_names_its_blob_whoever_wrote_it() -> None:
    ref = BlobRef(digest="ab" * 32, size=9)
    for message in (
        encode_head(ref, 5, "run-a"),
        Chunk(blob=ref, offset=5, run_id="run-a", data=b"xyz").SerializeToString(),
    ):
        piece = decode_chunk(message)
        assert (piece.blob, piece.offset, piece.run_id) == (ref, 5, "run-a")
    assert bytes(piece.data) == b"xyz"


@pytest.mark.parametrize("damaged", [b"\x1a", b"\x1a\x05ab", b"\x1a\xff\xff\xff\xff\xff\xff", b"\xff\xff", b"\x1a\x80"])
def test_a_damaged_chunk_is_a_value_error(damaged: bytes) -> None:
    with pytest.raises(ValueError):
        decode_chunk(damaged)
