"""What the window shows of carriers: a federation's, their editor, a run's, and a job's in its review."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFileDialog, QLabel, QLineEdit, QPushButton, QToolButton, QWidget
from pytestqt.qtbot import QtBot

from octopus_desktop.gui.dialogs.carrier import CarrierDialog
from octopus_desktop.gui.dialogs.enrol import EnrolDialog
from octopus_desktop.gui.widgets.status import StatusBadge
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from tests.gui.desk import Desk, make_desk


def words_in(widget: QWidget) -> str:
    badges = [badge.text for badge in widget.findChildren(StatusBadge) if badge.isVisibleTo(widget)]
    return "\n".join([label.text() for label in widget.findChildren(QLabel) if label.isVisibleTo(widget)] + badges)


def heart(desk: Desk) -> pb.Federation:
    return desk.context.store.federations["fed-heart"]


def dialog(desk: Desk, name: str) -> CarrierDialog:
    made = CarrierDialog(desk.context, desk.window, heart(desk), name)
    made.show()
    return made


def test_a_federations_carriers_are_listed_with_link_bytes_and_what_is_wrong(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        page = desk.page("federations")
        page.show_item("fed-heart")
        shown = words_in(page._detail.carriers)
        assert "gRPC" in shown and "18.4 ms round trip · 812 MiB in · 764 MiB out · 31.0 MiB resumed" in shown
        assert "Control" in shown and "Unsealed" in shown and "Not usable" in shown and "OCT-BROKER-LOGIN" in shown
        page.show_item("fed-stroke")
        assert "MQTT" not in words_in(page._detail.carriers)
        bare = pb.Federation()
        bare.CopyFrom(heart(desk))
        del bare.carriers[:]
        desk.daemon.put("federation", bare)
        page.show_item("fed-heart")
        desk.until(lambda: "has not said yet" in words_in(page._detail.carriers))


def test_a_carrier_is_set_up_from_its_row_and_the_password_goes_to_the_daemon_alone(
    qtbot: QtBot, tmp_path: Path
) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        page = desk.page("federations")
        page.show_item("fed-heart")
        edits = [b for b in page._detail.carriers.findChildren(QToolButton) if "MQTT + S3" in b.accessibleName()]
        edits[0].click()
        made = next(d for d in page.findChildren(CarrierDialog) if d.isVisible())
        made.fields["username"].setText("cleveland")
        made.fields["password"].setText("s3cret")
        assert made.fields["password"].echoMode() is QLineEdit.EchoMode.Password
        assert made.control is not None
        made.control.setChecked(True)
        qtbot.mouseClick(made.act, Qt.MouseButton.LeftButton)
        desk.until(lambda: desk.called("Federations.ConfigureCarrier"))
        sent = desk.called("Federations.ConfigureCarrier")[0]
        assert (sent.name, sent.secret, sent.control) == ("mqtt_s3", b"s3cret", True)
        assert json.loads(sent.own_json)["username"] == "cleveland" and "s3cret" not in sent.own_json
        desk.until(lambda: heart(desk).carrier == "mqtt_s3")
        desk.until(lambda: "by MQTT + S3" in words_in(page._detail))


def test_the_editor_asks_for_what_the_carrier_needs(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        assert list(dialog(desk, "grpc").fields) == ["proxy", "username", "password", "ca_file"]
        mqtt = dialog(desk, "mqtt")
        assert "leave empty to keep it" in mqtt.fields["password"].placeholderText()
        assert "broker.heart-alliance.org:8883" in words_in(mqtt)
        rpc = dialog(desk, "torch_rpc")
        assert rpc.control is None and rpc.accept_unsealed is not None and rpc.accept_unsealed.isChecked()
        assert "in the clear" in words_in(rpc)
        rpc.accept_unsealed.setChecked(False)
        assert rpc.own_side() == {"interface": "ib0", "accept_unsealed": False}
        mpi = dialog(desk, "mpi")
        assert "nothing of this silo's own" in words_in(mpi) and not mpi.act.isEnabled()


def test_what_the_daemon_refuses_is_told_in_the_editor(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        desk.daemon.faults["Federations.ConfigureCarrier"] = UserError(
            "OCT-CONFIG-INVALID", "The settings cannot be used.", "proxy: it is no URL.", "Correct it."
        )
        made = dialog(desk, "grpc")
        made.fields["proxy"].setText("nonsense")
        qtbot.mouseClick(made.act, Qt.MouseButton.LeftButton)
        desk.until(lambda: made.problem.isVisible())
        assert "OCT-CONFIG-INVALID" in made.problem.text() and made.act.isEnabled() and made.isVisible()


@pytest.mark.parametrize(
    ("carrier", "own", "words", "button"),
    [
        ("torch_rpc", {"accept_unsealed": True}, "Blob bytes travel unsealed", ""),
        ("mqtt", None, "Sealed end to end", ""),
        ("mqtt_s3", None, "This silo cannot use it now: The MQTT broker refused", "Set up MQTT + S3…"),
        ("auto", None, "Mutual TLS 1.3", ""),
        ("smoke", None, "does not offer it", ""),
    ],
)
def test_a_review_says_how_the_data_would_travel(
    qtbot: QtBot, tmp_path: Path, carrier: str, own: dict[str, object] | None, words: str, button: str
) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        offer = pb.SiloOffer()
        offer.CopyFrom(next(o for o in desk.daemon.snapshot.offers if o.state == "offered"))
        offer.federation_id = "fed-heart"
        offer.offer.config_json = json.dumps({**json.loads(offer.offer.config_json or "{}"), "carrier": carrier})
        desk.daemon.put("offer", offer)
        page = desk.page("approvals")
        desk.until(lambda: desk.context.store.offers[offer.id].offer.config_json == offer.offer.config_json)
        page.show_item(offer.id)
        desk.until(lambda: words in words_in(page.review.summary))
        found = [b for b in page.review.summary.findChildren(QPushButton) if b.text() == button]
        assert bool(found) == bool(button)
        if found:
            found[0].click()
            assert any(d.isVisible() for d in page.review.summary.findChildren(CarrierDialog))


def test_a_run_shows_its_carrier_and_round_trip(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        page = desk.page("runs")
        run = next(r for r in desk.context.store.runs.values() if r.state == "training")
        page.show_item(run.id)
        assert page.detail._values["carrier"].whole() == "MQTT + S3 · 41 ms"
        tip = page.detail._cells["carrier"].toolTip()
        assert "Connected" in tip and "6.00 MiB were not sent again" in tip and "fp16" in tip


def enrolling(desk: Desk, way: str) -> EnrolDialog:
    made = EnrolDialog(desk.context, desk.window, "octopus://enrol/heart")
    made.show()
    desk.until(lambda: made.box.view is not None)
    made.box.compared.setChecked(True)
    made.way.setCurrentIndex(made.WAYS.index(way))
    return made


def test_enrolment_goes_through_a_proxy(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        plain = enrolling(desk, "direct")
        assert not plain.proxy.isVisible() and plain.act.isEnabled() and not plain.request().own_json
        made = enrolling(desk, "proxy")
        assert made.proxy.isVisible() and not made.act.isEnabled(), "which proxy?"
        made.proxy.setText("http://proxy:3128")
        made.user.setText("nora")
        made.password.setText("s3cret")
        made.act.click()
        desk.until(lambda: desk.called("Federations.Enrol"))
        sent = desk.called("Federations.Enrol")[0]
        assert json.loads(sent.own_json) == {"proxy": "http://proxy:3128", "username": "nora"}
        assert sent.secret == b"s3cret"


def test_enrolment_without_a_route_goes_by_files(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        made = enrolling(desk, "files")
        assert made.answer.isVisible() and made.act.text() == "Write the request…"
        made.act.click()
        desk.until(lambda: made.findChildren(QFileDialog))
        made.findChildren(QFileDialog)[0].reject()
        made.write_request(str(tmp_path / "request"), b"request")
        assert (tmp_path / "request").read_bytes() == b"request"
        made.write_request(str(tmp_path / "no" / "place"), b"request")
        assert "cannot be written" in made.problem.text()
        made.take_answer(str(tmp_path / "none"))
        assert "cannot be read" in made.problem.text()
        (tmp_path / "answer").write_bytes(b"answer")
        made.take_answer(str(tmp_path / "answer"))
        desk.until(lambda: desk.called("Federations.EnrolFile"))
        assert desk.called("Federations.EnrolFile")[0].file == b"answer"
        desk.until(lambda: any("Enrolled in" in text for text in desk.window._toasts.texts()))


def test_a_job_whose_carrier_is_not_set_up_cannot_be_approved_and_can_be_set_up(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        offer = pb.SiloOffer()
        offer.CopyFrom(next(o for o in desk.daemon.snapshot.offers if o.state == "offered"))
        offer.offer.config_json = json.dumps({"carrier": "mqtt"})
        why = "This silo cannot use the carrier mqtt. It is not set up here."
        offer.policy.add(line="carrier", verdict="cannot", why=why)
        offer.problem_code = "OCT-CARRIER-REFUSED"
        desk.daemon.put("offer", offer)
        page = desk.page("approvals")
        desk.until(lambda: desk.context.store.offers[offer.id].problem_code)
        page.show_item(offer.id)
        desk.until(lambda: why in words_in(page.review.summary))
        assert "cannot take part" in words_in(page.review) and not page.review.approve.isEnabled()
        assert "Not possible" in words_in(page.review.summary)
        assert any(b.text() == "Set up MQTT…" for b in page.review.summary.findChildren(QPushButton))
        asked = len(desk.called("Approvals.Review"))
        ready = pb.SiloOffer()
        ready.CopyFrom(offer)
        del ready.policy[:]
        ready.problem_code = ""
        desk.daemon.put("offer", ready)
        desk.until(lambda: len(desk.called("Approvals.Review")) > asked)
        desk.until(lambda: page.review.approve.isEnabled() and "Not possible" not in words_in(page.review.summary))
