"""The silo's side of many carriers: set up, agreed upon, used while needed, shown and recorded; enrolment by file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.cli.local_federation import free_port
from octopus_desktop.communication import broker
from octopus_desktop.communication.settings import MqttOffer, TorchRpcOffer
from octopus_desktop.daemon.app import App
from octopus_desktop.daemon.reducer import PackageGood
from octopus_desktop.daemon.services import carrier_views as views
from octopus_desktop.identity.keys import SigningKey
from octopus_desktop.identity.secrets import SecretStore, open_store
from octopus_desktop.jobs.approval import Statement
from octopus_desktop.jobs.policy import Rule
from octopus_desktop.storage.silo_db import SiloDb
from octopus_desktop.system.paths import SiloHome, private_dir
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import envelope_pb2 as e
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb.federation_pb2 import CarrierOffer
from tests.daemon.scripted import ScriptedFederation, scripted_federation, write_job
from tests.daemon.silo_process import SiloProcess, silo_process
from tests.daemon.test_daemon_federation import enrolment
from tests.daemon.test_daemon_process import fails
from tests.daemon.test_daemon_runs import write_model

PASSWORDS = {"server": "sesame of the server", "north": "sesame of north"}
BY_MQTT = {"carrier": "mqtt"}


@contextmanager
def mosquitto(folder: Path) -> Iterator[int]:
    port = free_port()
    broker.prepare(folder, broker.BrokerPlan(port=port, users=PASSWORDS))
    broker.start(folder)
    try:
        yield port
    finally:
        broker.stop(folder)


async def with_broker(federation: ScriptedFederation, port: int) -> None:
    await federation.offer_broker(port, PASSWORDS["server"])


def side(federation_id: str, name: str = "mqtt", **changes: Any) -> pb.ConfigureCarrierRequest:
    """The silo's side of a carrier, as the administrator sends it."""
    fields: dict[str, Any] = {"own_json": json.dumps({"username": "north"}), "secret": PASSWORDS["north"].encode()}
    return pb.ConfigureCarrierRequest(id=federation_id, name=name, request_id=new_id(), **{**fields, **changes})


async def configure(silo: SiloProcess, federation_id: str, name: str = "mqtt", **changes: Any) -> pb.Federation:
    return await silo.call("Federations.ConfigureCarrier", side(federation_id, name, **changes))


async def carrier(silo: SiloProcess, name: str, condition: Callable[[pb.CarrierView], Any]) -> pb.CarrierView:
    def found(state: pb.Snapshot) -> pb.CarrierView | None:
        views = [c for f in state.federations for c in f.carriers if c.name == name]
        return next((c for c in views if condition(c)), None)

    return await silo.until(found)


def is_up(view: pb.CarrierView) -> bool:
    return view.link == "up"


# set up


async def test_a_carrier_is_set_up_control_moves_to_it_and_stays_there(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as port:
        async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
            snap = await silo.set_up(federation, data=tmp_path / "patients.csv")
            fid = snap.federations[0].id
            assert [c.name for c in snap.federations[0].carriers] == ["grpc"]
            assert (await carrier(silo, "grpc", is_up)).control
            await with_broker(federation, port)  # told by a fresh Hello over the link that is up
            offered = await carrier(silo, "mqtt", bool)
            assert (offered.link, offered.own_json, offered.secret_kept, offered.title) == (
                "idle", "", False, "MQTT 5, sealed, through a broker",
            )  # fmt: skip
            done = await configure(silo, fid, control=True)
            assert done.carrier == "mqtt"
            view = await carrier(silo, "mqtt", is_up)
            assert (
                view.control and view.in_use and view.secret_kept and json.loads(view.own_json)["username"] == "north"
            )
            old = await carrier(silo, "grpc", lambda c: c.link == "idle")
            assert not old.control and not old.in_use
            run_id = federation.offer("north", federation.package(write_job(tmp_path / "job")))
            await silo.offer(run_id, "offered")  # envelope and package came by the broker

            await silo.kill()
            await silo.start()
            again = await silo.until(lambda s: next((f for f in s.federations if f.link == "up"), None))
            assert again.carrier == "mqtt" and again.bytes_in >= view.bytes_in
            page = await silo.call("Audit.Page", pb.AuditPageRequest(limit=50, action="carrier.configured"))
            detail = json.loads(page.entries[0].detail_json)
            assert (detail["carrier"], detail["control"], detail["password changed"]) == ("mqtt", "mqtt", True)
            log = (silo.home.logs / "daemon.log").read_text()
            state = silo.home.database.read_bytes() + silo.home.database.with_name("silo.sqlite-wal").read_bytes()
            assert "sesame" not in page.entries[0].detail_json + log and b"sesame" not in state

            await configure(silo, fid, "grpc", own_json="{}", secret=b"", control=True)
            await carrier(silo, "grpc", lambda c: is_up(c) and c.control)
            await carrier(silo, "mqtt", lambda c: c.link == "idle" and c.secret_kept)
            await silo.call("Federations.Leave", pb.ById(id=fid, request_id=new_id()))
            place = f"federation/{fid}/mqtt/password"
            store = await store_of(silo)
            assert store.get(place) is None and store.get("silo/signing") is not None


async def store_of(silo: SiloProcess) -> SecretStore:
    """The silo's secrets, with the daemon gone."""
    await silo.kill()
    return open_store(silo.home.secrets, passphrase="correct horse")


async def test_a_side_that_cannot_be_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        federation.offers = [
            CarrierOffer(name="grpc", settings_json="{}"),
            CarrierOffer(name="mqtt", settings_json=MqttOffer(host="127.0.0.1", port=1).to_json()),
            CarrierOffer(name="mpi", settings_json="{}"),
            CarrierOffer(name="pigeon", settings_json="{}"),  # of a newer version
            CarrierOffer(name="torch_rpc", settings_json='{"host": 5}'),
        ]
        fid = (await silo.set_up(federation)).federations[0].id

        async def refused(name: str = "mqtt", **changes: Any) -> str:
            return await fails(silo, "Federations.ConfigureCarrier", side(fid, name, **changes))

        assert await refused(own_json="{") == "OCT-CONFIG-INVALID"
        assert await refused(own_json="[]") == "OCT-CONFIG-INVALID"
        assert await refused(own_json='{"colour": "red"}') == "OCT-CONFIG-INVALID"
        assert await refused(secret=b"") == "OCT-CONFIG-INVALID"  # a user without a password
        assert await refused(secret=b"\xff") == "OCT-CONFIG-INVALID"
        assert await refused(own_json=json.dumps({"ca_file": str(tmp_path / "none.pem")})) == "OCT-CONFIG-INVALID"
        assert await refused("mpi", own_json="{}", control=True) == "OCT-CARRIER-REFUSED"
        assert await refused("pigeon", own_json="{}") == "OCT-CARRIER-REFUSED"
        assert await refused("torch_rpc", own_json="{}") == "OCT-CARRIER-REFUSED"
        unknown = side("f-none")
        assert await fails(silo, "Federations.ConfigureCarrier", unknown) == "OCT-FEDERATION-UNKNOWN"
        after = (await silo.snapshot()).federations[0]
        assert [c.name for c in after.carriers] == ["grpc", "mqtt", "mpi"] and after.link == "up"
        assert not any(c.own_json for c in after.carriers if c.name != "grpc")


async def test_a_broker_that_is_away_is_told_and_gRPC_can_be_chosen_again(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        offered = MqttOffer(host="127.0.0.1", port=free_port(), tls=False)
        federation.offers = [CarrierOffer(name="mqtt", settings_json=offered.to_json()), CarrierOffer(name="grpc")]
        fid = (await silo.set_up(federation)).federations[0].id
        await configure(silo, fid, control=True)
        down = await silo.until(lambda s: next((f for f in s.federations if f.link == "down"), None))
        assert down.error_code == "OCT-BROKER-DOWN" and down.carrier == "mqtt" and down.error
        await configure(silo, fid, "grpc", own_json="{}", secret=b"", control=True)
        up = await silo.until(lambda s: next((f for f in s.federations if f.link == "up"), None))
        assert up.carrier == "grpc" and not up.error_code


async def test_a_wrong_password_is_told_and_the_right_one_brings_the_link_up(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as port:
        async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
            fid = (await silo.set_up(federation)).federations[0].id
            await with_broker(federation, port)
            await carrier(silo, "mqtt", bool)
            await configure(silo, fid, control=True, secret=b"guessed")
            down = await silo.until(lambda s: next((f for f in s.federations if f.error_code), None))
            assert down.error_code == "OCT-BROKER-LOGIN" and down.link == "down"
            await configure(silo, fid)  # what control goes by stays as it is
            up = await silo.until(lambda s: next((f for f in s.federations if f.link == "up"), None))
            assert up.carrier == "mqtt" and not up.error_code


# agreement


async def test_an_offer_that_cannot_be_carried_says_why_until_its_carrier_is_set_up(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as port:
        async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
            fid = (await silo.set_up(federation, data=tmp_path / "patients.csv")).federations[0].id
            await with_broker(federation, port)
            await carrier(silo, "mqtt", bool)
            package = federation.package(write_job(tmp_path / "job"))
            wanted = federation.offer("north", package, config=BY_MQTT)
            foreign = federation.offer("north", package, config={"carrier": "torch_rpc"})
            for run_id, why in ((wanted, "not set up here"), (foreign, "does not offer")):
                offer = await silo.until(
                    lambda s, run_id=run_id: next((o for o in s.offers if o.id == run_id and o.policy), None)
                )
                assert (offer.state, offer.problem_code) == ("offered", "OCT-CARRIER-REFUSED") and why in offer.problem
                assert {line.line: line.verdict for line in offer.policy}["carrier"] == "cannot"
                review = await silo.call("Approvals.Review", pb.ById(id=run_id))
                line = next(line for line in review.summary if line.topic == "carrier")
                assert line.verdict == "cannot" and why in line.why
                decision = await silo.decision(offer)
                request = pb.DecideRequest(id=run_id, decision=decision)
                assert await fails(silo, "Approvals.Decide", request) == "OCT-CARRIER-REFUSED"
            assert not (await silo.snapshot()).runs
            refused = await silo.offer(foreign, "offered")
            await silo.decide(refused, "rejected", reason=refused.problem)
            told = (await federation.until(lambda: federation.decisions(foreign)))[0]
            assert told.verdict == e.Decision.REJECTED and "does not offer" in told.reason

            await configure(silo, fid)  # control stays with gRPC
            ready = await silo.until(lambda s: next((o for o in s.offers if o.id == wanted and not o.problem), None))
            assert "carrier" not in {line.line for line in ready.policy}
            review = await silo.call("Approvals.Review", pb.ById(id=wanted))
            text = next(line.text for line in review.summary if line.topic == "carrier")
            assert text == "Models and updates travel by MQTT 5; control by gRPC, mutual TLS."
            assert (await carrier(silo, "mqtt", bool)).link == "idle"  # no run needs it yet
            await silo.decide(ready)
            assert (await carrier(silo, "mqtt", is_up)).in_use
            await a_run_moves_its_data_by_the_broker(silo, federation, wanted, tmp_path)
            idle = await carrier(silo, "mqtt", lambda c: c.link == "idle")
            assert not idle.in_use and idle.bytes_out > 0


async def a_run_moves_its_data_by_the_broker(
    silo: SiloProcess, federation: ScriptedFederation, run_id: str, root: Path
) -> None:
    federation.task("north", run_id, 1, write_model(root / "m1.safetensors"))
    await federation.until(lambda: federation.answers(run_id))
    run = await silo.run(run_id, "exchanging", "training")
    assert (run.carrier, run.encoding, run.link) == ("mqtt", "none", "up")
    detail = await silo.call("Runs.Detail", pb.ById(id=run_id))
    assert {m.kind: m.carrier for m in detail.left} == {"DECISION": "grpc", "ANSWER": "mqtt"}
    federation.post("north", run_id, e.FINISHED, e.Finished(rounds=1))
    await silo.run(run_id, "completed")


async def test_with_auto_a_run_that_is_under_way_moves_with_control(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as port:
        async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
            fid = (await silo.set_up(federation, data=tmp_path / "patients.csv")).federations[0].id
            await with_broker(federation, port)
            await carrier(silo, "mqtt", bool)
            run_id = federation.offer("north", federation.package(write_job(tmp_path / "job")))
            await silo.decide(await silo.offer(run_id, "offered"))
            federation.task("north", run_id, 1, write_model(tmp_path / "m1.safetensors"))
            await federation.until(lambda: len(federation.answers(run_id)) == 1)
            await configure(silo, fid, control=True)
            await carrier(silo, "mqtt", is_up)
            federation.task("north", run_id, 2, write_model(tmp_path / "m2.safetensors", 1.0))
            await federation.until(lambda: len(federation.answers(run_id)) == 2)
            detail = await silo.call("Runs.Detail", pb.ById(id=run_id))
            answers = {m.round: m.carrier for m in detail.left if m.kind == "ANSWER"}
            assert answers == {1: "grpc", 2: "mqtt"} and detail.run.carrier == "mqtt"


def test_what_is_offered_and_what_a_silo_lacks() -> None:
    federation = pb.Federation(name="Alliance", carrier="grpc")
    mqtt = CarrierOffer(name="mqtt", settings_json=MqttOffer(host="b").to_json())
    rpc = TorchRpcOffer(host="10.0.0.1", port=7, networks=("10.0.0.0/8",), sealed=False)
    offers = [CarrierOffer(name="grpc"), mqtt, CarrierOffer(name="torch_rpc", settings_json=rpc.to_json())]
    assert views.merge(federation, offers) and not views.merge(federation, offers)
    grpc, by_broker, by_rpc = federation.carriers
    grpc.own_json = "{}"
    assert views.agreed(federation, '{"carrier": "auto"}') == "grpc"
    with pytest.raises(UserError) as raised:
        views.agreed(federation, '{"carrier": "torch_rpc"}')
    assert "not set up here" in raised.value.why  # the network is to be trusted by the silo, not by the server alone
    by_rpc.own_json = "{}"
    assert views.agreed(federation, '{"carrier": "torch_rpc"}') == "torch_rpc"
    assert "sealed end to end" in views.words(federation, '{"carrier": "torch_rpc"}')  # the silo has not consented
    by_rpc.own_json = '{"accept_unsealed": true}'
    assert "NOT sealed" in views.words(federation, '{"carrier": "torch_rpc"}')
    by_broker.own_json = '{"username": "north"}'
    with pytest.raises(UserError) as raised:
        views.agreed(federation, '{"carrier": "mqtt"}')
    assert raised.value.code == "OCT-CARRIER-REFUSED" and "no password" in raised.value.why
    by_broker.secret_kept, by_broker.bytes_in = True, 5
    assert views.agreed(federation, '{"carrier": "mqtt"}') == "mqtt"
    federation.carrier = "mqtt"
    moved = CarrierOffer(name="mqtt", settings_json=MqttOffer(host="elsewhere").to_json())
    assert views.merge(federation, [CarrierOffer(name="grpc"), moved])
    assert [c.name for c in federation.carriers] == ["grpc", "mqtt"]
    assert federation.carriers[1].own_json and federation.carriers[1].bytes_in == 5
    assert not views.merge(federation, [])  # an older server tells of none
    assert views.merge(federation, [CarrierOffer(name="mpi")])
    assert [c.name for c in federation.carriers] == ["mqtt", "mpi"]  # the control carrier stays, to say what is wrong


# in one process


def make_app(root: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """A silo that is enrolled in one federation by gRPC and MQTT, with nothing running."""
    (root / "passphrase").touch(mode=0o600)
    (root / "passphrase").write_text("correct horse")
    monkeypatch.setenv("OCTOPUS_PASSPHRASE_FILE", str(root / "passphrase"))
    home = SiloHome(root=private_dir(root / "home"))
    app = App(home, SiloDb(home.database), lambda: None)
    federation = pb.Federation(id="f1", name="Alliance", carrier="grpc", silo_name="north", link="up")
    for name in ("grpc", "mqtt"):
        settings = MqttOffer(host="127.0.0.1").to_json() if name == "mqtt" else "{}"
        federation.carriers.append(views.new_view(name, settings, "{}"))
    with app.silo.change():
        app.silo.put("federation", federation)
        app.silo.db.execute("INSERT INTO credentials VALUES('f1',x'00',x'00',x'00','none',1.0)")
    return app


async def test_a_message_that_is_handed_to_another_carrier_is_recorded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(tmp_path, monkeypatch)
    mail = app.links.make_mail(app.silo.get("federation", "f1"))
    with app.silo.change():
        app.lives.post("f1", "r1", e.DECISION, e.Decision(reason="no").SerializeToString())
    assert mail.view("mqtt", lambda s: None).pending("server") == []
    for _ in range(2):
        (envelope,) = mail.view("grpc", lambda s: None).pending("server")
        assert envelope.signature
    with app.silo.change():
        federation = app.silo.need("federation", "f1")
        federation.carrier = "mqtt"
        app.silo.put("federation", federation)
    assert mail.view("grpc", lambda s: None).pending("server") == []
    assert mail.view("mqtt", lambda s: None).pending("server")[0].id == envelope.id
    entries, _ = app.silo.audit.page(limit=10, action="message.left")
    assert [json.loads(entry.detail_json)["carrier"] for entry in reversed(entries)] == ["grpc", "mqtt"]
    (row,) = app.silo.db.rows("SELECT body FROM run_left")
    assert pb.Left.FromString(row[0]).carrier == "mqtt"
    app.record.flush()
    assert app.silo.bytes_out_today() == len(envelope.body)  # counted once


async def test_a_federation_of_an_older_version_gets_gRPC_as_its_carrier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(tmp_path, monkeypatch)
    with app.silo.change():
        app.silo.put("federation", pb.Federation(id="f0", name="Old", carrier="grpc", link="up", bytes_in=7))
    app.federations.bring_up_to_date()
    (view,) = app.silo.get("federation", "f0").carriers
    assert (view.name, view.control, view.bytes_in) == ("grpc", True, 7) and not views.reason_not_ready(view)


async def test_moved_settings_of_a_carrier_in_use_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(tmp_path, monkeypatch)
    monkeypatch.setattr(app.links, "settle", lambda federation_id: None)
    offers = [CarrierOffer(name="grpc"), CarrierOffer(name="mqtt", settings_json=MqttOffer(host="new").to_json())]
    notices: list[str] = []
    monkeypatch.setattr(app.silo, "notify", lambda level, code, text, *subject: notices.append(text))
    app.carriers.offered("f1", offers)
    assert not notices  # it was not in use
    app.silo.get("federation", "f1").carriers[1].in_use = True
    offers[1] = CarrierOffer(name="mqtt", settings_json=MqttOffer(host="newer", ca_pem="CA").to_json())
    app.carriers.offered("f1", offers)
    assert len(notices) == 1 and "mqtt" in notices[0]
    entries, _ = app.silo.audit.page(limit=1, action="carriers.offered")
    recorded = json.loads(entries[0].detail_json)["carriers"]["mqtt"]
    assert recorded["host"] == "newer" and "ca_pem" not in recorded


async def test_a_rule_that_forbids_a_job_holds_against_an_approval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule came between what the administrator saw and the decision."""
    app = make_app(tmp_path, monkeypatch)
    person = SigningKey.generate()
    app.setup.configure("North", "Nora", person.public)
    scripted = ScriptedFederation(tmp_path / "fed")
    path = scripted.package(write_job(tmp_path / "job", data=""))
    envelope = scripted.offer_envelope("north", path)
    app.blobs.adopt(path)
    app.lives.check_package = app.lives.apply_policy = lambda run: None
    app.policies.apply_all = lambda: None
    app.offers.came("f1", envelope)
    with app.silo.change():
        offer = app.silo.need("offer", envelope.run_id)
        offer.signature_verified = True
        app.silo.put("offer", offer)
        app.lives.apply(envelope.run_id, PackageGood())
    text = Rule.from_dict({"effect": "reject", "job": "tiny"}).to_json()
    rule = pb.Policy(
        name="never", enabled=True, rule_json=text, statement=text.encode(), signature=person.sign(text.encode()),
        approver_key=person.public,
    )  # fmt: skip
    app.policies.put(rule)
    offer = app.silo.need("offer", envelope.run_id)
    statement = Statement(
        run_id=offer.id, verdict="approved", package_digest=offer.offer.package.digest,
        config_digest=offer.offer.config_digest, decided_by="Nora", decided_at=1.0,
    ).to_bytes()  # fmt: skip
    decision = e.Decision(
        verdict=e.Decision.APPROVED, statement=statement, signature=person.sign(statement), approver_key=person.public
    )
    with pytest.raises(UserError) as raised:
        await app.approvals.decide(offer.id, decision)
    assert raised.value.code == "OCT-POLICY-FORBIDDEN" and "never" in raised.value.why and raised.value.next_step
    assert app.silo.get("offer", offer.id).state == "offered" and not app.lives.active()


def test_a_silo_that_uses_gRPC_alone_loads_no_other_carrier() -> None:
    code = (
        "import sys, octopus_desktop.daemon.app, octopus_desktop.communication.grpc_silo\n"
        "heavy = {'paho', 'boto3', 'botocore', 'torch', 'mpi4py', 'numpy'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


# enrolment by file


async def test_enrolment_by_file_needs_no_route_to_the_server(tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as port:
        async with (
            scripted_federation(tmp_path / "fed") as federation,
            scripted_federation(tmp_path / "other") as other,
            silo_process(tmp_path / "silo") as silo,
        ):
            await silo.call("Setup.Configure", silo.configuration())
            reply = pb.EnrolFileLocalRequest(file=b"x", request_id=new_id())
            assert await fails(silo, "Federations.EnrolFile", reply) == "OCT-ENROL-INVALID"  # it asked for nothing
            asked = await silo.call("Federations.EnrolRequestFile", enrolment(federation.invite()))
            assert asked.name == "north.octorequest" and not (await silo.snapshot()).federations

            async def take(file: bytes) -> Any:
                return await silo.call("Federations.EnrolFile", pb.EnrolFileLocalRequest(file=file))

            async def refused(file: bytes) -> str:
                return await fails(silo, "Federations.EnrolFile", pb.EnrolFileLocalRequest(file=file))

            assert await refused(asked.file) == "OCT-ENROL-INVALID"  # the request is no answer
            assert await refused(federation.answer_file(asked.file)) == "OCT-CARRIER-REFUSED"  # gRPC alone is offered
            await with_broker(federation, port)
            answer = federation.answer_file(asked.file)
            at = answer.index(federation.key.public)
            forged = answer[:at] + other.key.public + answer[at + 32 :]
            assert await refused(forged) == "OCT-SIGN-BAD"  # another server's key was put in on the way
            assert await refused(b"") == "OCT-ENROL-INVALID"
            await silo.kill()
            await silo.start()  # what was asked is kept
            got = await take(answer)
            assert (got.carrier, got.link, got.error_code) == ("mqtt", "down", "OCT-CARRIER-REFUSED")
            assert got.error and got.silo_name == "north"
            assert await refused(answer) == "OCT-ENROL-INVALID"  # it was used
            await federation.end.stop(0)  # nothing of gRPC is needed from here on
            await configure(silo, got.id)
            up = await silo.until(lambda s: next((f for f in s.federations if f.link == "up"), None))
            assert up.carrier == "mqtt"
            run_id = federation.offer("north", federation.package(write_job(tmp_path / "job", data="")))
            await silo.offer(run_id, "offered")
            renewing = pb.ById(id=got.id, request_id=new_id())
            assert await fails(silo, "Federations.Renew", renewing) == "OCT-CARRIER-REFUSED"
            auto = await silo.until(lambda s: next((c for c in s.federations[0].carriers if c.name == "grpc"), None))
            assert auto.link == "idle" and not auto.bytes_out
