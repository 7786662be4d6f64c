"""The carriers that a federation offers: by the operator's words, in files, to silos, and for runs."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.cli.local_federation import free_port
from octopus_desktop.communication import broker
from octopus_desktop.communication.contract import LinkPhase, LinkState
from octopus_desktop.communication.grpc_silo import GrpcSiloEnd
from octopus_desktop.communication.mqtt import MqttSiloEnd
from octopus_desktop.communication.parties import SiloParty
from octopus_desktop.communication.settings import MqttOffer, OwnSide, Secrets
from octopus_desktop.identity import certificates, enrol_files
from octopus_desktop.identity.authority import ca_fingerprint
from octopus_desktop.identity.invitations import decode
from octopus_desktop.identity.keys import SigningKey
from octopus_desktop.identity.member import accept_certificate, enrol_request, make_request
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.server import carrier_files as files
from octopus_desktop.server import home as homes
from octopus_desktop.server.mail import ServerMail
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.storage.federation_db import FederationDb, InvitationRow, JobRow, MemberRow, RunRow
from octopus_desktop.storage.federation_engine import sqlite_url
from octopus_desktop.system.paths import FederationHome
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import envelope_pb2 as pb
from octopus_desktop.wire.pb import operator_pb2 as op
from octopus_desktop.wire.pb.federation_pb2 import CarrierOffer, EnrolReplyFile, EnrolRequestFile
from tests.server.scripted import PATIENCE_S, ScriptedSilo, Server, federation

PASSWORDS = {"server": "sesame of the server", "mayo": "sesame of mayo"}


@contextmanager
def mosquitto(folder: Path) -> Iterator[int]:
    """A broker with users and rights; its port."""
    port = free_port()
    broker.prepare(folder, broker.BrokerPlan(port=port, users=PASSWORDS))
    broker.start(folder)
    try:
        yield port
    finally:
        broker.stop(folder)


def put(server: Server, name: str = "mqtt", **fields: Any) -> op.CarrierInfo:
    settings = fields.pop("settings", None)
    text = "" if settings is None else json.dumps(settings)
    return server.call("PutCarrier", op.PutCarrierRequest(name=name, settings_json=text, **fields))


def put_broker(server: Server, port: int) -> op.CarrierInfo:
    settings = {"host": "127.0.0.1", "port": port, "tls": False}
    return put(server, settings=settings, username="server", secret=PASSWORDS["server"].encode())


def carriers(server: Server) -> dict[str, op.CarrierInfo]:
    return {c.name: c for c in server.call("Carriers", op.CarriersRequest()).carriers}


async def until(condition: Callable[[], Any]) -> Any:
    """The operator's door tells of carriers when it is asked only."""
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await asyncio.to_thread(condition)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return found


def refused(call: Callable[[], Any]) -> UserError:
    with pytest.raises(UserError) as raised:
        call()
    assert raised.value.what and raised.value.why and raised.value.next_step
    return raised.value


def heard(silo: ScriptedSilo) -> list[list[CarrierOffer]]:
    """What the silo's gRPC link is told of carriers, from now on."""
    told: list[list[CarrierOffer]] = []

    def on_carriers(offers: Any) -> None:
        told.append(list(offers))
        silo._tell()

    silo.end = GrpcSiloEnd(
        address=silo.address, credentials=silo.credentials, owner=silo, version="test", boot_id=new_id("b"),
        on_carriers=on_carriers,
    )  # fmt: skip
    silo._task = asyncio.create_task(silo.end.run())
    return told


# settings


async def test_a_carrier_is_kept_without_its_secret_shown_and_is_there_after_a_kill(tmp_path: Path) -> None:
    async with federation(tmp_path) as (server, _):
        assert list(carriers(server)) == ["grpc"] and carriers(server)["grpc"].state == "up"
        with mosquitto(tmp_path / "broker") as port:
            put_broker(server, port)
            assert (await until(lambda: carriers(server)["mqtt"].state == "up")) is True
            text = server.home.config.read_text()
            assert f"port = {port}" in text and 'username = "server"' in text and "sesame" not in text
            kept = server.home.keys / "carrier.mqtt.password"
            assert kept.read_text() == PASSWORDS["server"] and stat.S_IMODE(kept.stat().st_mode) == 0o600
            server.end()
            server.start()
            info = await until(lambda: (c := carriers(server)["mqtt"]).state == "up" and c)
            assert info.username == "server" and info.secret_kept and json.loads(info.settings_json)["port"] == port
            put(server, settings={"host": "127.0.0.1", "port": port, "tls": False, "topics": "other"})
            assert json.loads(carriers(server)["mqtt"].settings_json)["topics"] == "other"
            assert carriers(server)["mqtt"].username == "server" and kept.exists()  # what is left empty stays
        server.call("RemoveCarrier", op.RemoveCarrierRequest(name="mqtt"))
        assert list(carriers(server)) == ["grpc"] and not kept.exists()
        assert "mqtt" not in server.home.config.read_text()


async def test_settings_that_cannot_be_are_refused_and_change_nothing(tmp_path: Path) -> None:
    async with federation(tmp_path) as (server, _):
        before = server.home.config.read_text()
        broker_at = {"host": "broker.example"}
        assert "colour" in refused(lambda: put(server, settings={**broker_at, "colour": "red"})).why
        assert "password" in refused(lambda: put(server, settings=broker_at, username="server")).why
        assert "host" in refused(lambda: put(server, settings={})).why
        assert "carriers are" in refused(lambda: put(server, "pigeon", settings={})).why
        store = {**broker_at, "endpoint": "https://s3.example", "bucket": "b"}
        assert "credentials" in refused(lambda: put(server, "mqtt_s3", settings=store, store_key_id="k")).why
        assert "text" in refused(lambda: put(server, settings=broker_at, username="s", secret=b"\xff")).why
        assert server.home.config.read_text() == before and list(carriers(server)) == ["grpc"]
        assert not list(server.home.keys.glob("carrier.*"))
        put(server, settings=broker_at)
        put_s3 = {"store_key_id": "k", "store_secret": b"s"}
        assert "topics" in refused(lambda: put(server, "mqtt_s3", settings=store, **put_s3)).why
        put(server, "mqtt_s3", settings={**store, "topics": "s3"}, **put_s3)
        assert refused(lambda: server.call("RemoveCarrier", op.RemoveCarrierRequest(name="grpc"))).code
        gone = refused(lambda: server.call("RemoveCarrier", op.RemoveCarrierRequest(name="mpi")))
        assert gone.code == "OCT-CARRIER-REFUSED" and "grpc, mqtt, mqtt_s3" in gone.why


def test_what_people_wrote_in_the_file_stays_or_is_left_to_them(tmp_path: Path) -> None:
    home = FederationHome(root=tmp_path / "server")
    homes.create(home, "Alliance", "127.0.0.1", 7450)
    offered = files.CarrierConfig(offer=MqttOffer(host='a "b"\nc', topics="x"), username="ü")
    home.config.write_text("# ours\n" + home.config.read_text() + "\n[carriers.mpi]\nsealed = false # a trusted rack\n")
    files.write_carrier(home, "mqtt", offered)
    files.write_carrier(home, "mqtt", offered)
    loaded = homes.load(home).carriers
    assert loaded["mqtt"] == offered and set(loaded) == {"grpc", "mqtt", "mpi"}
    assert "# ours" in home.config.read_text() and "# a trusted rack" in home.config.read_text()
    files.write_carrier(home, "mqtt", None)
    assert set(homes.load(home).carriers) == {"grpc", "mpi"}
    inline = home.config.read_text().replace("[carriers.mpi]\nsealed = false # a trusted rack", "")
    home.config.write_text('carriers.mqtt.host = "by hand"\n' + inline)
    assert "by hand" in refused(lambda: files.write_carrier(home, "mqtt", None)).why
    home.config.write_text(inline + "[carriers.mqtt]\nport = 70000\nhost = 'h'\n")
    assert refused(lambda: homes.load(home)).code == "OCT-CONFIG-INVALID"
    home.config.write_text(inline + "[carriers]\nmqtt = 5\n")
    assert refused(lambda: homes.load(home)).code == "OCT-CONFIG-INVALID"


# links


async def test_a_broker_that_is_down_keeps_neither_server_nor_silos_from_working(tmp_path: Path) -> None:
    async with federation(tmp_path, "mayo") as (server, (silo,)):
        put_broker(server, free_port())
        info = await until(lambda: (c := carriers(server)["mqtt"]).state == "down" and c)
        assert info.error_code == "OCT-BROKER-DOWN" and info.error
        server.end()
        server.start()
        await silo.until(lambda: silo.up)
        server.submit()
        run = server.start_run(["mayo"])
        assert (await server.until_run(run.id, lambda r: r.state == "completed")).carrier == "auto"
        assert [s.carrier for s in server.run(run.id).silos] == ["grpc"]
        assert [s.carrier for s in server.call("Silos", op.SilosRequest()).silos] == ["grpc"]


async def test_silos_are_told_at_the_greeting_and_when_the_offer_changes(tmp_path: Path) -> None:
    async with federation(tmp_path, "mayo") as (server, (silo,)):
        await silo.disconnect()
        told = heard(silo)
        await silo.until(lambda: len(told) == 1)
        assert [c.name for c in told[0]] == ["grpc"]
        put(server, settings={"host": "broker.example"})
        await silo.until(lambda: len(told) == 2)
        assert json.loads({c.name: c for c in told[1]}["mqtt"].settings_json)["host"] == "broker.example"
        server.call("RemoveCarrier", op.RemoveCarrierRequest(name="mqtt"))
        await silo.until(lambda: len(told) == 3)
        assert [c.name for c in told[2]] == ["grpc"]
        assert [s.phase for s in silo.states].count(LinkPhase.DOWN) == 1  # of the first link; the second was never cut


def by_broker(silo: ScriptedSilo, port: int, server_key: bytes, ca_der: bytes) -> MqttSiloEnd:
    party = SiloParty(name=silo.name, federation=ca_fingerprint(ca_der), signing=silo.signing, server_key=server_key)
    return MqttSiloEnd(
        offer=MqttOffer(host="127.0.0.1", port=port, tls=False), own=OwnSide(username=silo.name),
        secrets=Secrets(password=PASSWORDS[silo.name]), party=party, owner=silo, version="test", boot_id=new_id("b"),
    )  # fmt: skip


async def test_control_goes_where_the_silo_greeted_last_and_a_revocation_cuts_every_carrier(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as port:
        async with federation(tmp_path, "mayo") as (server, (silo,)):
            identity = homes.load_identity(server.home)
            put_broker(server, port)
            await until(lambda: carriers(server)["mqtt"].state == "up")
            end = by_broker(silo, port, identity.signing.public, identity.authority.ca_der)
            grpc, carrying = silo.end, asyncio.create_task(end.run())
            assert grpc is not None
            control = lambda: server.call("Silos", op.SilosRequest()).silos[0].carrier  # noqa: E731
            await until(lambda: control() == "mqtt")
            server.submit()
            silo.end = end  # answers wake this one
            run = server.start_run(["mayo"])
            await server.until_run(run.id, lambda r: r.state == "completed")
            links = carriers(server)
            assert links["mqtt"].links[0].bytes_in > links["grpc"].links[0].bytes_in
            assert [s.carrier for s in server.run(run.id).silos] == ["mqtt"]
            server.call("Revoke", op.RevokeRequest(name="mayo", reason="left"))
            await asyncio.wait_for(carrying, PATIENCE_S)
            assert end.state.phase is LinkPhase.REVOKED and end.state.fault.code == "OCT-CERT-REVOKED"
            await silo.until(lambda: grpc.state.phase is LinkPhase.REVOKED)


# runs


async def test_a_run_may_ask_only_for_what_is_offered_and_keeps_it_from_being_taken_away(tmp_path: Path) -> None:
    async with federation(tmp_path, "mayo") as (server, (silo,)):
        silo.verdict = ""  # nobody decides
        server.submit()

        def start(carrier: str) -> Any:
            text = json.dumps({"communication": {"carrier": carrier}, "run": {"rounds": 1}})
            return server.call("StartRun", op.StartRunRequest(job="echo", overrides_json=text))

        no = refused(lambda: start("mpi"))
        assert no.code == "OCT-CARRIER-REFUSED" and "it offers grpc" in no.why
        assert not server.call("ListRuns", op.ListRunsRequest()).runs
        put(server, settings={"host": "broker.example"})
        run = start("mqtt")
        assert run.carrier == "mqtt"
        kept = refused(lambda: server.call("RemoveCarrier", op.RemoveCarrierRequest(name="mqtt")))
        assert kept.code == "OCT-CARRIER-REFUSED" and run.id in kept.why
        await silo.until_kind(pb.OFFER)  # control goes by the silo's own carrier
        server.call("StopRun", op.StopRunRequest(id=run.id, reason="enough"))
        server.call("RemoveCarrier", op.RemoveCarrierRequest(name="mqtt"))


async def test_a_carrier_for_data_alone_runs_only_while_a_run_asks_for_it(tmp_path: Path) -> None:
    async with federation(tmp_path, "mayo") as (server, (silo,)):
        silo.verdict = ""
        server.submit()
        settings = {"host": "127.0.0.1", "port": free_port(), "networks": ["10.99.0.0/16"]}
        assert put(server, "torch_rpc", settings=settings).state == "idle"
        text = json.dumps({"communication": {"carrier": "torch_rpc"}, "run": {"rounds": 1}})
        run = server.call("StartRun", op.StartRunRequest(job="echo", overrides_json=text))
        info = await until(lambda: (c := carriers(server)["torch_rpc"]).state == "down" and c)
        assert info.error_code == "OCT-RPC-NETWORK"  # this machine is not in that network
        server.call("StopRun", op.StopRunRequest(id=run.id, reason="enough"))
        await until(lambda: carriers(server)["torch_rpc"].state == "idle")


# which envelope goes by which


def make_mail(root: Path, **carrier_of: str) -> ServerMail:
    """A server's mail with runs that are open, each with the silo mayo: run id -> the carrier it asks for."""
    home = FederationHome(root=root)
    db = FederationDb(sqlite_url(root / "federation.sqlite"))
    job = JobRow(
        digest="d", name="j", version="1", author="a", author_fingerprint="f", author_key=SigningKey.generate().public,
        submitted_at=1.0, size=1, purpose="",
    )  # fmt: skip
    db.add_job(job)
    for run_id, carrier in carrier_of.items():
        config = RunConfig(carrier=carrier)
        row = RunRow(
            id=run_id, job_digest="d", job_name="j", job_version="1", config_json=config.to_json(),
            config_digest=config.digest(), state="running", created_at=1.0, offer_expires_at=2.0, rounds=1,
        )  # fmt: skip
        db.add_run(row, ["mayo"], "", b"")
    return ServerMail(home, db, BlobStore(root / "blobs"), SigningKey.generate())


def post(mail: ServerMail, run_id: str, kind: Any) -> str:
    envelope = pb.Envelope(id=new_id("e"), run_id=run_id, kind=kind, recipient="mayo")
    mail.post(envelope)
    return envelope.id


def up(mail: ServerMail, carrier: str, phase: LinkPhase = LinkPhase.UP) -> None:
    view = mail.view(carrier)
    view.link_changed(LinkState(peer="mayo", phase=phase, since=1.0))
    if phase is LinkPhase.UP:
        view.peer_greeted("mayo", [])


def ids(mail: ServerMail, carrier: str) -> list[str]:
    return [envelope.id for envelope in mail.view(carrier).pending("mayo")]


def test_control_and_data_of_a_run_go_by_their_own_carriers(tmp_path: Path) -> None:
    mail = make_mail(tmp_path, free="auto", named="torch_rpc")
    free = [post(mail, "free", kind) for kind in (pb.OFFER, pb.TASK, pb.ROUND, pb.FINISHED)]
    offer, task, round_ = (post(mail, "named", kind) for kind in (pb.OFFER, pb.TASK, pb.ROUND))
    finished, stop = post(mail, "named", pb.FINISHED), post(mail, "named", pb.STOP)
    assert ids(mail, "grpc") == []  # no control link is up
    up(mail, "grpc")
    assert ids(mail, "grpc") == [*free, offer, finished, stop]
    assert ids(mail, "torch_rpc") == [task, round_]
    up(mail, "mqtt")
    assert ids(mail, "mqtt") == [*free, offer, finished, stop] and ids(mail, "grpc") == []
    notified: list[str] = []
    mail.notify = notified.append
    up(mail, "mqtt", LinkPhase.DOWN)  # gRPC is still up: control goes there again, and its end is woken
    assert ids(mail, "grpc") == [*free, offer, finished, stop] and notified == ["mayo"]
    assert mail.is_up("mayo")
    up(mail, "torch_rpc")
    assert mail.control("mayo") == "grpc"  # a link for data is no control
    up(mail, "grpc", LinkPhase.DOWN)
    assert not mail.is_up("mayo")
    mail.close()


def test_what_an_ended_run_left_goes_by_control(tmp_path: Path) -> None:
    mail = make_mail(tmp_path, named="mpi")
    round_ = post(mail, "named", pb.ROUND)
    up(mail, "grpc")
    assert (ids(mail, "grpc"), ids(mail, "mpi")) == ([], [round_])
    mail._db.update_run("named", state="completed")
    assert (ids(mail, "grpc"), ids(mail, "mpi")) == ([round_], [])
    envelope = mail.view("grpc").pending("mayo")[0]
    mail.view("grpc").delivered(envelope)
    mail.view("mpi").delivered(envelope)  # a second receipt, after the mailbox was closed
    assert ids(mail, "grpc") == []
    mail.close()


def test_bytes_of_all_links_are_counted_over_ends_that_are_made_anew(tmp_path: Path) -> None:
    mail = make_mail(tmp_path)
    invitation = InvitationRow(id="inv", role="silo", name="", serial="1", created_at=1.0, expires_at=2.0)
    mail._db.add_invitation(invitation)
    member = MemberRow(
        name="mayo", role="silo", signing_key=b"k" * 32, fingerprint="f", certificate_expires=2.0, enrolled_at=1.0
    )
    mail._db.enrol("inv", "digest", member, "2")
    for carrier, came in (("grpc", 100), ("mqtt", 10), ("mqtt", 3)):  # the third by a new end
        state = LinkState(peer="mayo", phase=LinkPhase.UP, since=1.0, bytes_in=came)
        mail.view(carrier).link_changed(state)
    mail.save_links()
    kept = mail._db.member("mayo")
    assert kept is not None and kept.bytes_in == 113
    mail.close()


# enrolment by files


async def test_a_request_file_is_answered_like_a_call_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    async with federation(tmp_path) as (server, _):
        put(server, settings={"host": "broker.example"})
        invitation, signing = server.invite("mayo"), SigningKey.generate()
        key, csr = make_request("mayo")
        request = enrol_request(csr, "mayo", signing, "Mayo Clinic", "desk@example.org")
        content = enrol_files.write_request(request, invitation)

        def enrol(file: bytes) -> Any:
            return server.call("EnrolFile", op.EnrolFileRequest(file=file))

        changed = EnrolRequestFile.FromString(content)
        changed.request.signing_key = SigningKey.generate().public
        assert refused(lambda: enrol(changed.SerializeToString())).code == "OCT-SIGN-BAD"
        other = EnrolRequestFile.FromString(content)
        other.invitation_id = "inv-other"
        assert refused(lambda: enrol(other.SerializeToString())).code == "OCT-ENROL-INVALID"
        assert refused(lambda: enrol(b"no such file")).code == "OCT-ENROL-INVALID"
        assert refused(lambda: enrol(b"")).code == "OCT-ENROL-INVALID"
        answer = enrol(content)
        assert answer.name == "mayo"
        reply = enrol_files.read_reply(answer.file, invitation.ca_der)
        assert accept_certificate(reply.certificate_der, reply.ca_der, key).name == "mayo"
        assert [c.name for c in reply.carriers] == ["grpc", "mqtt"]
        enrol(content)  # the answer was lost: the same request gets one again
        _, second = make_request("mayo")
        again = enrol_request(second, "mayo", signing, "", "")
        assert refused(lambda: enrol(enrol_files.write_request(again, invitation))).code == "OCT-ENROL-USED"

        forged = EnrolReplyFile.FromString(answer.file)
        reply.server_signing_key = SigningKey.generate().public
        forged.reply = reply.SerializeToString()
        with pytest.raises(UserError) as raised:
            enrol_files.read_reply(forged.SerializeToString(), invitation.ca_der)
        assert raised.value.code == "OCT-SIGN-BAD"


async def test_a_member_certificate_does_not_enrol_by_file(tmp_path: Path) -> None:
    async with federation(tmp_path, "mayo") as (server, (silo,)):
        identity = homes.load_identity(server.home)
        key, csr = make_request("clinic")
        member = identity.authority.issue(csr, "clinic", "silo")  # from the CA, yet no invitation's
        text = server.call("Invite", op.InviteRequest(role="silo", name="clinic", valid_s=60)).text
        invitation = decode(text)
        invitation.certificate_der, invitation.id = member, "clinic"
        invitation.key_seed = certificates.scalar_of(certificates.key_from_pem(key))
        request = enrol_request(csr, "clinic", silo.signing, "", "")
        file = enrol_files.write_request(request, invitation)
        call = lambda: server.call("EnrolFile", op.EnrolFileRequest(file=file))  # noqa: E731
        assert refused(call).code == "OCT-ENROL-ROLE"
