"""Enrolment and the network port: who gets in, and what those who do not are told."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from pathlib import Path

import grpc
import grpc.aio
import pytest

from octopus_desktop.communication.grpc_wire import ClientCredentials, client_channel, to_user_error
from octopus_desktop.identity import certificates
from octopus_desktop.identity.authority import Authority
from octopus_desktop.identity.keys import SigningKey
from octopus_desktop.identity.member import accept_certificate, enrol_request, make_request, renew_request
from octopus_desktop.jobs.package import build, sign
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import federation_pb2 as fed
from octopus_desktop.wire.pb import operator_pb2 as op
from octopus_desktop.wire.pb.federation_pb2_grpc import CarrierStub, EnrolmentStub, ResearchStub
from tests.server.scripted import ECHO, Server, enrol, federation, invitation_credentials, make_silo


async def refusal(work: object) -> str:
    with pytest.raises(UserError) as raised:
        await work  # type: ignore[misc]
    assert raised.value.what and raised.value.next_step
    return raised.value.code


async def test_an_invitation_works_once_and_the_same_request_gets_its_answer_again(tmp_path: Path) -> None:
    async with federation(tmp_path) as (server, _):
        invitation, signing = server.invite("mayo"), SigningKey.generate()
        key, csr = make_request("mayo")
        reply = await enrol(invitation, "mayo", signing, csr)
        peer = accept_certificate(reply.certificate_der, reply.ca_der, key)
        assert (peer.name, peer.role, reply.federation) == ("mayo", "silo", "Alliance")
        again = await enrol(invitation, "mayo", signing, csr)  # the first answer was lost in a crash
        accept_certificate(again.certificate_der, again.ca_der, key)
        _, other = make_request("mayo")
        assert await refusal(enrol(invitation, "mayo", SigningKey.generate(), other)) == "OCT-ENROL-USED"
        rows = server.call("Invitations", op.InvitationsRequest()).invitations
        assert [(row.name, row.used_by) for row in rows] == [("mayo", "mayo")]
        silos = server.call("Silos", op.SilosRequest()).silos
        assert [(s.name, s.organisation, s.state) for s in silos] == [("mayo", "mayo hospital", "active")]


async def test_wrong_expired_and_foreign_invitations_are_refused(tmp_path: Path) -> None:
    async with federation(tmp_path) as (server, _):
        key = SigningKey.generate()
        _, csr = make_request("mayo")
        expired = server.invite("mayo", valid_s=0.001)
        assert await refusal(enrol(expired, "mayo", key, csr)) == "OCT-ENROL-EXPIRED"
        named = server.invite("mayo")
        _, other = make_request("clinic")
        assert await refusal(enrol(named, "clinic", key, other)) == "OCT-ENROL-NAME"
        unknown = server.invite("mayo")
        server.end()
        server.home.database.unlink()
        for rest in ("-wal", "-shm"):
            Path(f"{server.home.database}{rest}").unlink(missing_ok=True)
        server.start()
        assert await refusal(enrol(unknown, "mayo", key, csr)) == "OCT-ENROL-UNKNOWN"
        # another federation's authority: TLS itself refuses
        foreign = Authority.create("Elsewhere").invite(unknown.server)
        assert await refusal(enrol(foreign, "mayo", key, csr)) == "OCT-LINK-TLS"
        mixed = fed.Invitation()
        mixed.CopyFrom(foreign)
        mixed.ca_der = unknown.ca_der  # it trusts the server, but the server does not trust it
        assert await refusal(enrol(mixed, "mayo", key, csr)) in ("OCT-LINK-TLS", "OCT-LINK-DOWN")


async def test_a_name_is_taken_for_ever_and_a_bad_proof_is_refused(tmp_path: Path) -> None:
    async with federation(tmp_path) as (server, _):
        await make_silo(server, "mayo", connect=False)
        _, csr = make_request("mayo")
        assert await refusal(enrol(server.invite(), "mayo", SigningKey.generate(), csr)) == "OCT-ENROL-NAME"
        with pytest.raises(UserError) as raised:
            server.invite("mayo")
        assert raised.value.code == "OCT-ENROL-NAME"
        invitation = server.invite()
        _, csr = make_request("clinic")
        request = enrol_request(csr, "clinic", SigningKey.generate(), "", "")
        request.proof = SigningKey.generate().sign(csr)
        async with client_channel(invitation.server, invitation_credentials(invitation)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await EnrolmentStub(channel).Enrol(request)
        assert to_user_error(failed.value, "").code == "OCT-SIGN-BAD"


async def test_each_door_opens_for_its_own_role(tmp_path: Path) -> None:
    async with federation(tmp_path) as (server, _):
        silo = await make_silo(server, "mayo", connect=False)
        invitation = server.invite("clinic")
        author = server.invite("ada", role="author")
        ada = SigningKey.generate()
        key, csr = make_request("ada")
        reply = await enrol(author, "ada", ada, csr)
        credentials = ClientCredentials(
            root=certificates.to_pem(reply.ca_der), key=key, chain=certificates.to_pem(reply.certificate_der)
        )

        async def code(creds: ClientCredentials, call: object) -> str:
            async with client_channel(silo.address, creds) as channel:
                try:
                    await call(channel)  # type: ignore[operator]
                except grpc.aio.AioRpcError as error:
                    return to_user_error(error, silo.address).code
            return "ok"

        _, renewal = make_request("mayo")
        renew = fed.RenewRequest(csr_der=renewal)
        for creds, call, expected in (
            (invitation_credentials(invitation), lambda c: CarrierStub(c).Have(fed.HaveRequest()), "OCT-ENROL-ROLE"),
            (invitation_credentials(invitation), lambda c: ResearchStub(c).Jobs(fed.JobsRequest()), "OCT-ENROL-ROLE"),
            (invitation_credentials(invitation), lambda c: EnrolmentStub(c).Renew(renew), "OCT-ENROL-ROLE"),
            (silo.credentials, lambda c: EnrolmentStub(c).Enrol(fed.EnrolRequest()), "OCT-ENROL-ROLE"),
            (silo.credentials, lambda c: ResearchStub(c).Jobs(fed.JobsRequest()), "OCT-ENROL-ROLE"),
            (silo.credentials, lambda c: EnrolmentStub(c).Renew(renew), "ok"),
            (credentials, lambda c: CarrierStub(c).Have(fed.HaveRequest()), "OCT-ENROL-ROLE"),
            (credentials, lambda c: ResearchStub(c).Jobs(fed.JobsRequest()), "ok"),
        ):
            assert await code(creds, call) == expected

        # an enrolled author's packages are taken at the researcher's door; a stranger's are not
        package = tmp_path / "echo.octojob"
        build(ECHO, package)
        sign(package, ada, "ada")
        chunk = fed.Chunk(data=package.read_bytes())
        async with client_channel(silo.address, credentials) as channel:
            job = await ResearchStub(channel).Submit(iter([chunk]))
            assert (job.name, job.author) == ("echo", "ada")
            sign(package, SigningKey.generate(), "eve")
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await ResearchStub(channel).Submit(iter([fed.Chunk(data=package.read_bytes())]))
            assert to_user_error(failed.value, "").code == "OCT-JOB-AUTHOR"
        server.call("Revoke", op.RevokeRequest(name="ada"))
        assert await code(credentials, lambda c: ResearchStub(c).Jobs(fed.JobsRequest())) == "OCT-CERT-REVOKED"
        states = [(a.name, a.state) for a in server.call("Authors", op.AuthorsRequest()).authors]
        assert states == [("ada", "revoked")]


async def test_a_renewed_certificate_works_and_the_key_stays_home(tmp_path: Path) -> None:
    async with federation(tmp_path) as (server, _):
        silo = await make_silo(server, "mayo", connect=False)
        request = fed.RenewRequest(csr_der=renew_request(silo.credentials.key, "mayo"))
        async with client_channel(silo.address, silo.credentials) as channel:
            reply = await EnrolmentStub(channel).Renew(request)
        silo.credentials = ClientCredentials(
            root=silo.credentials.root, key=silo.credentials.key, chain=certificates.to_pem(reply.certificate_der)
        )
        silo.connect()
        await silo.until(lambda: silo.up)
        await silo.disconnect()


async def test_tls_1_2_is_refused_and_1_3_is_spoken(tmp_path: Path) -> None:
    async with federation(tmp_path) as (server, _):
        invitation = server.invite()
        credentials = invitation_credentials(invitation)
        (tmp_path / "own.pem").write_bytes(credentials.chain + credentials.key)
        (tmp_path / "ca.pem").write_bytes(credentials.root)

        def shake(version: ssl.TLSVersion) -> str | None:
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            context.load_cert_chain(tmp_path / "own.pem")
            context.minimum_version = context.maximum_version = version
            context.set_alpn_protocols(["h2"])
            with (
                socket.create_connection(("127.0.0.1", server.port), 10) as raw,
                context.wrap_socket(raw, server_hostname="localhost") as wrapped,
            ):
                return wrapped.version()

        assert shake(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            shake(ssl.TLSVersion.TLSv1_2)


async def test_bad_packages_and_unknown_jobs_are_refused_with_their_codes(tmp_path: Path) -> None:
    async with federation(tmp_path) as (server, _):
        for data, code in ((b"no zip at all", "OCT-JOB-ZIP"), (b"\0" * (65 << 20), "OCT-JOB-TOO-LARGE")):
            chunks = [fed.Chunk(data=data[at : at + (1 << 20)]) for at in range(0, len(data), 1 << 20)]
            with pytest.raises(UserError) as raised:
                server.api.send("Operator.SubmitJob", chunks)
            assert raised.value.code == code
        package = tmp_path / "unsigned.octojob"
        build(ECHO, package)
        with pytest.raises(UserError) as raised:
            server.api.send("Operator.SubmitJob", [fed.Chunk(data=package.read_bytes())])
        assert raised.value.code == "OCT-JOB-UNSIGNED"
        with pytest.raises(UserError) as raised:
            server.start_run()
        assert raised.value.code == "OCT-JOB-UNKNOWN"
        server.submit()
        for settings, silos, code in (
            ({"rounds": -1}, [], "OCT-CONFIG-INVALID"),
            ({"rouns": 3}, [], "OCT-CONFIG-INVALID"),
            ({"update": "everything"}, [], "OCT-CONFIG-INVALID"),
            ({}, [], "OCT-RUN-QUORUM"),
            ({}, ["nobody"], "OCT-ENROL-NAME"),
        ):
            with pytest.raises(UserError) as raised:
                server.start_run(silos, **settings)
            assert raised.value.code == code
        assert not [p for p in server.home.blobs.rglob("*") if p.is_file() and p.stat().st_size > 60 << 20]


async def test_a_second_server_a_used_port_and_a_newer_database_say_what_is_wrong(tmp_path: Path) -> None:
    async with federation(tmp_path) as (server, _):
        assert "OCT-STATE-EXISTS" in server.init().stderr
        with pytest.raises(UserError) as raised:
            Server(server.home.root, server.port).start()
        assert raised.value.code == "OCT-STATE-LOCKED"
        other = Server(tmp_path / "other", server.port)
        other.init()
        with pytest.raises(UserError) as raised:
            other.start()
        assert raised.value.code == "OCT-PORT-USED"
        server.end()
        with pytest.raises(UserError) as raised:
            server.call("Status", op.StatusRequest())
        assert raised.value.code == "OCT-SERVER-AWAY"
        import sqlite3

        with sqlite3.connect(server.home.database) as db:
            db.execute("UPDATE alembic_version SET version_num='9999'")
        with pytest.raises(UserError) as raised:
            server.start()
        assert raised.value.code == "OCT-STATE-NEWER"
        nothing = Server(tmp_path / "nothing")
        with pytest.raises(UserError) as raised:
            nothing.start()
        assert raised.value.code == "OCT-STATE-MISSING"


async def test_keys_are_private(tmp_path: Path) -> None:
    async with federation(tmp_path) as (server, _):
        for path in server.home.keys.iterdir():
            assert path.stat().st_mode & 0o077 == 0
        for folder in (server.home.root, server.home.keys, server.home.runtime):
            assert folder.stat().st_mode & 0o077 == 0
        assert server.home.socket.stat().st_mode & 0o077 == 0
        token = server.home.socket.with_suffix(".token")
        token.write_text("guessed")
        with pytest.raises(UserError) as raised:
            server.call("Status", op.StatusRequest())
        assert raised.value.code == "OCT-DAEMON-TOKEN"
        server.end()
        server.start()
        assert server.invite().key_seed.hex() not in server.home.database.read_bytes().hex()


def test_no_torch_is_in_the_server() -> None:
    code = "import sys, octopus_desktop.server.app; print(sorted({'torch', 'PySide6', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
