"""What an administrator relies on when they review and decide: the real widgets against the sample daemon."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QPoint, Qt, QTimer
from PySide6.QtWidgets import QDialog

from octopus_desktop.gui.dialogs.approve import ApproveDialog
from octopus_desktop.gui.dialogs.reason import ReasonDialog
from octopus_desktop.gui.dialogs.signing import PassphraseDialog
from octopus_desktop.gui.pages.approvals import ApprovalsPage
from octopus_desktop.gui.pages.approvals_code import notes_of
from octopus_desktop.gui.pages.approvals_words import conditions_of, situation
from octopus_desktop.gui.widgets.ink import contrast
from octopus_desktop.identity.keys import verify
from octopus_desktop.identity.secrets import approver_key, open_store
from octopus_desktop.jobs.approval import Conditions, Statement
from octopus_desktop.system.paths import silo_home
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb.envelope_pb2 import Decision
from tests.gui.review_desk import Desk, desk
from tests.gui.sample_daemon import SampleDaemon

PASSPHRASE = "correct horse battery staple"


@pytest.fixture(autouse=True)
def sealed_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """The approver's key lies in a file that a passphrase seals, as on a machine without a keyring."""
    monkeypatch.setenv("OCTOPUS_SECRETS", "file")
    monkeypatch.delenv("OCTOPUS_PASSPHRASE_FILE", raising=False)


def open_page(qtbot: Any, office: Desk) -> ApprovalsPage:
    page = ApprovalsPage(office.context)
    qtbot.addWidget(page)
    page.resize(1180, 700)
    with qtbot.waitExposed(page):
        page.show()
    return page


def show(qtbot: Any, page: ApprovalsPage, job: str, version: str = "") -> str:
    """Open the review of a job's offer and wait until it is there."""
    offers = page._context.store.offers.values()
    offer_id = next(o.id for o in offers if o.offer.job_name == job and version in ("", o.offer.job_version))
    page.show_item(offer_id)
    qtbot.waitUntil(lambda: page.review.reply is not None and page.review.reply.offer.id == offer_id)
    return str(offer_id)


def dialog_of(qtbot: Any, page: ApprovalsPage, kind: type[QDialog]) -> Any:
    def found() -> list[QDialog]:
        return [d for d in page.findChildren(kind) if d.isVisible()]

    qtbot.waitUntil(lambda: bool(found()), timeout=10_000)
    return found()[0]


def give_passphrase(qtbot: Any, page: ApprovalsPage, text: str = PASSPHRASE) -> None:
    dialog = dialog_of(qtbot, page, PassphraseDialog)
    qtbot.keyClicks(dialog.field, text)
    qtbot.mouseClick(dialog._open, Qt.MouseButton.LeftButton)


def decisions(daemon: SampleDaemon) -> list[pb.DecideRequest]:
    return [request for method, request in daemon.calls if method == "Approvals.Decide"]


def test_an_approval_is_the_approvers_signature_over_exactly_what_was_shown(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        offer_id = show(qtbot, page, "heart-risk", "1.3.0")
        qtbot.mouseClick(page.review.approve, Qt.MouseButton.LeftButton)
        dialog: ApproveDialog = dialog_of(qtbot, page, ApproveDialog)
        dialog._rounds.setValue(12)
        assert not dialog.confirm.isEnabled() and "20 rounds" in dialog.problem
        dialog._rounds.setValue(20)
        dialog._hours.setChecked(True)
        qtbot.mouseClick(dialog.confirm, Qt.MouseButton.LeftButton)
        give_passphrase(qtbot, page)
        qtbot.waitUntil(lambda: office.store.offers[offer_id].state == "approved", timeout=20_000)

        (request,) = decisions(office.daemon)
        decision, offer = request.decision, office.store.offers[offer_id].offer
        assert request.id == offer_id and decision.verdict == Decision.APPROVED
        assert verify(decision.approver_key, decision.statement, decision.signature)
        store = open_store(silo_home(tmp_path).secrets, passphrase=PASSPHRASE)
        assert decision.approver_key == approver_key(store, office.store.daemon.administrator).public
        statement = Statement.from_bytes(decision.statement)
        assert statement.run_id == offer_id and statement.verdict == "approved"
        assert statement.package_digest == offer.package.digest == page.review._digest._value
        assert statement.config_digest == offer.config_digest
        assert statement.data_scope == {"heart": office.store.datasets["data-heart"].digest}
        assert statement.conditions == Conditions(
            datasets={"heart": "data-heart"}, hours_of_day=((18, 6),), max_rounds=20, runtime="v-imaging"
        )
        assert statement.decided_by == office.store.daemon.administrator
        qtbot.waitUntil(lambda: page.review.revoke.isVisible() and not page.review.approve.isVisible())
        qtbot.waitUntil(
            lambda: [level for level, _text in office.toasts] == ["ok"]
        )  # the reply may come after the event


def test_a_wrong_passphrase_signs_nothing_and_asks_again(qtbot: Any, tmp_path: Path) -> None:
    approver_key(open_store(silo_home(tmp_path).secrets, passphrase=PASSPHRASE), "Dr. Ruth Adler")
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        show(qtbot, page, "heart-risk", "1.3.0")
        qtbot.mouseClick(page.review.approve, Qt.MouseButton.LeftButton)
        qtbot.mouseClick(dialog_of(qtbot, page, ApproveDialog).confirm, Qt.MouseButton.LeftButton)
        give_passphrase(qtbot, page, "wrong")
        qtbot.waitUntil(
            lambda: any(d.isVisible() and d._problem.text() for d in page.findChildren(PassphraseDialog)),
            timeout=20_000,
        )
        assert not decisions(office.daemon)
        dialog_of(qtbot, page, PassphraseDialog).reject()
        qtbot.waitUntil(lambda: page.review.approve.isEnabled())
        assert not decisions(office.daemon) and not office.errors


def test_reject_without_a_reason_is_not_possible(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        offer_id = show(qtbot, page, "heart-risk", "1.3.0")
        qtbot.mouseClick(page.review.reject, Qt.MouseButton.LeftButton)
        dialog: ReasonDialog = dialog_of(qtbot, page, ReasonDialog)
        assert not dialog.confirm.isEnabled()
        qtbot.keyClicks(dialog.field, "   ")
        qtbot.keyClick(dialog.field, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
        assert dialog.isVisible() and not dialog.confirm.isEnabled()
        qtbot.keyClicks(dialog.field, "Not covered by our agreement.")
        qtbot.mouseClick(dialog.confirm, Qt.MouseButton.LeftButton)
        give_passphrase(qtbot, page)
        qtbot.waitUntil(lambda: office.store.offers[offer_id].state == "rejected", timeout=20_000)
        (request,) = decisions(office.daemon)
        statement = Statement.from_bytes(request.decision.statement)
        assert statement.verdict == "rejected" and statement.reason == "Not covered by our agreement."
        assert statement.data_scope == {} and request.decision.reason == statement.reason
        assert verify(request.decision.approver_key, request.decision.statement, request.decision.signature)


def test_an_invalid_offer_tells_its_problem_and_cannot_be_approved(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        office.daemon.faults["Approvals.Review"] = UserError("OCT-JOB-TAMPERED", "The package is damaged.")
        page = open_page(qtbot, office)
        invalid = next(o for o in office.store.offers.values() if o.state == "invalid")
        page.show_item(invalid.id)
        qtbot.waitUntil(lambda: page.review._stack.currentWidget() is page.review._wrong)
        assert not page.review.approve.isEnabled() and not page.review.reject.isVisible()
        assert "OCT-JOB-TAMPERED" in page.review._detail.text()
        assert invalid.problem in page.review._wrong_text.text()
        page.review._on_approve()
        assert not page.findChildren(ApproveDialog)


def test_what_is_unverified_forbidden_or_expired_cannot_be_approved() -> None:
    now = time.time()
    offer = pb.SiloOffer(id="run-1", state="offered", signature_verified=True)
    offer.offer.expires_at = now + 60
    assert situation(offer, None, now).approve
    assert not situation(offer, None, now + 61).approve
    offer.signature_verified = False
    unverified = situation(offer, None, now)
    assert not unverified.approve and unverified.refuse and "signature" in unverified.text
    offer.signature_verified = True
    offer.policy.add(line="leaves", verdict="forbidden", why="No update may leave at night")
    forbidden = situation(offer, None, now)
    assert not forbidden.approve and "No update may leave at night" in forbidden.detail


def test_a_need_that_no_dataset_fits_says_why_and_cannot_be_approved(qtbot: Any) -> None:
    reply = pb.ReviewReply(data=[pb.DataMatch(need="heart", dataset_id="d1", fits=False, problem="lacks “age”")])
    datasets = {"d1": pb.Dataset(id="d1", alias="echo", digest="aa" * 32)}
    dialog = ApproveDialog(None, reply, datasets, {}, "Ada")
    qtbot.addWidget(dialog)
    assert not dialog.confirm.isEnabled()
    assert "heart" in dialog.problem and "lacks “age”" in dialog._hints["heart"].text()
    dialog.choose_dataset("heart", "d1")
    assert dialog.data_scope == {}


def test_two_fitting_datasets_must_be_chosen_between(qtbot: Any) -> None:
    reply = pb.ReviewReply(data=[pb.DataMatch(need="scans", dataset_id=d, fits=True) for d in ("d1", "d2")])
    datasets = {d: pb.Dataset(id=d, alias=f"scans-{d}", digest=d * 32) for d in ("d1", "d2")}
    dialog = ApproveDialog(None, reply, datasets, {}, "Ada")
    qtbot.addWidget(dialog)
    assert not dialog.confirm.isEnabled()
    dialog.choose_dataset("scans", "d2")
    assert dialog.confirm.isEnabled() and dialog.data_scope == {"scans": "d2" * 32}


def test_a_job_may_be_sent_to_the_sites_slurm_instead_of_the_silos_own_nodes(qtbot: Any) -> None:
    reply = pb.ReviewReply(data=[pb.DataMatch(need="scans", dataset_id="d1", fits=True)])
    datasets = {"d1": pb.Dataset(id="d1", alias="scans", digest="d1" * 32)}
    profile = pb.SlurmProfile(id="q1", name="big", partition="gpu", nodes=2, gpus_per_node=4, time="12:00:00")
    nodes = {"n1": pb.Node(id="n1", name="here", state="ready", local=True)}
    dialog = ApproveDialog(None, reply, datasets, nodes, "Ada", {"q1": profile})
    qtbot.addWidget(dialog)
    dialog._some.setChecked(True)
    dialog._nodes["n1"].setChecked(True)
    assert dialog.conditions.nodes == ("n1",) and dialog.conditions.slurm == ""
    dialog._slurm.setCurrentIndex(1)
    assert dialog._slurm.currentText() == "Slurm: big · gpu · nodes: 2 · GPUs: 8 · at most 12:00:00"
    assert (dialog.conditions.slurm, dialog.conditions.nodes) == ("q1", ())
    assert not dialog._some.isEnabled() and dialog.confirm.isEnabled()


def test_a_finding_opens_its_line_in_the_code(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        show(qtbot, page, "heart-risk", "1.3.0")
        view, table = page.review.code.view, page.review.findings.table
        page.review.tabs.setCurrentWidget(page.review.findings)
        row = next(n for n in range(table.model.rowCount()) if table.model.row(n)[1].line == 14)
        table.view.setCurrentIndex(table.model.index(row, 0))
        qtbot.keyClick(table.view, Qt.Key.Key_Return)
        qtbot.waitUntil(lambda: view.path == "code/columns.py" and view.editor.textCursor().blockNumber() == 13)
        assert page.review.tabs.currentWidget() is page.review.code
        assert "subprocess" in view.editor.textCursor().block().text()
        assert "Starts another program" in view.editor.tip_of(14)
        place = next(box for line, box in view.editor.lines_in(view.editor.viewport().rect()) if line == 14)
        assert view.editor._margin.line_at(place.center().y()) == 14


def test_code_is_highlighted_searched_and_annotated(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        show(qtbot, page, "heart-risk", "1.3.0")
        page.review.tabs.setCurrentWidget(page.review.code)
        view = page.review.code.view
        page.review.code.open_place("code/trainer.py", 1)
        qtbot.waitUntil(lambda: view.path == "code/trainer.py" and view.editor.highlighter.done)
        block = next(
            b for n in range(40) if (b := view.editor.document().findBlockByNumber(n)).text().startswith("import torch")
        )
        assert any(f.start == 0 and f.length == 6 for f in block.layout().formats())
        view.open_search()
        qtbot.keyClicks(view._search, "optimiser")
        qtbot.waitUntil(lambda: view._count.text().startswith("1 of"))
        assert view.editor.textCursor().selectedText() == "optimiser"
        qtbot.keyClick(view._search, Qt.Key.Key_Return)
        assert view._count.text().startswith("2 of")
        qtbot.mouseClick(view.editor._margin, Qt.MouseButton.LeftButton, pos=QPoint(10, 8))
        note = next(d for d in page.findChildren(QDialog) if d.isVisible())
        note._field.setPlainText("Ask why")
        note.accept()
        qtbot.waitUntil(lambda: "Ask why" in view.editor.notes.values())
        assert any(method == "Approvals.Note" and call.text == "Ask why" for method, call in office.daemon.calls)


def test_invisible_characters_in_code_are_made_visible(qtbot: Any) -> None:
    from octopus_desktop.gui.widgets.code_view import CodeView

    view = CodeView()
    qtbot.addWidget(view)
    view.show()
    view.show_bytes("a.py", "if access == 'user\u202e \u2066# admin\u2069':\n".encode(), binary=False)
    assert "‹U+202E›" in view.editor.toPlainText() and view.warning.isVisible()
    assert "3" in view.warning.text()
    view.show_bytes("b.py", b"x = 1\n", binary=False)
    assert not view.warning.isVisible()
    view.show_bytes("big.py", b"x = 1\n", binary=False, whole=9000)
    assert view.warning.isVisible() and "9,000" in view.warning.text()
    view.show_bytes("c.bin", bytes(1000), binary=True)
    assert "not text" in view.editor.toPlainText()


def test_changes_jump_from_change_to_change(qtbot: Any) -> None:
    from octopus_desktop.gui.widgets.diff_view import DiffView, parse

    unified = (
        "--- a\n+++ b\n@@ -1,3 +1,3 @@\n one\n-two\n+zwei\n three\n@@ -10,2 +10,3 @@\n ten\n+ten and a half\n eleven"
    )
    lines = parse(unified)
    assert [(x.kind, x.old, x.new) for x in lines if x.kind in ("added", "removed")] == [
        ("removed", 2, 0),
        ("added", 0, 2),
        ("added", 0, 11),
    ]
    view = DiffView()
    qtbot.addWidget(view)
    view.show_diff("code/a.py", "changed", unified)
    assert "+2 −1" in view.counts.text()
    assert [view.jump(1), view.jump(1), view.jump(1), view.jump(-1)] == [2, 7, 2, 7]


def test_colours_of_code_and_changes_are_readable() -> None:
    from octopus_desktop.gui.widgets.ink import DARK, LIGHT, STEP_COLOURS, text_on

    for ink in (LIGHT, DARK):
        for colour in (*ink.syntax.values(), *ink.severity.values(), ink.text, ink.muted):
            assert contrast(colour, ink.ground) >= 4.5
        for ground in (ink.added, ink.removed, ink.hunk, ink.current):
            assert contrast(ink.text, ground) >= 4.5
        assert contrast(ink.added_mark, ink.added) >= 4.5 and contrast(ink.removed_mark, ink.removed) >= 4.5
        assert contrast(ink.muted, ink.added) >= 4.5 and contrast(ink.muted, ink.removed) >= 4.5
    assert len(set(STEP_COLOURS.values())) == len(STEP_COLOURS)
    assert all(contrast(text_on(colour), colour) >= 4.5 for colour in STEP_COLOURS.values())


def test_a_slow_daemon_does_not_hold_the_window_up(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        office.daemon.delays["Approvals.Review"] = 1.0
        beats: list[float] = []
        timer = QTimer(interval=10)
        timer.timeout.connect(lambda: beats.append(time.perf_counter()))
        timer.start()
        other = next(o.id for o in office.store.offers.values() if o.offer.job_name.startswith("ejection"))
        page.show_item(other)
        assert page.review._stack.currentWidget() is page.review._wait
        qtbot.waitUntil(lambda: page.review.reply is not None and page.review.reply.offer.id == other)
        timer.stop()
        assert len(beats) > 20
        assert max(b - a for a, b in itertools.pairwise(beats)) < 0.4


def test_the_queue_puts_what_waits_first_and_filters(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        states = [offer.state for offer in page.queue.model.offers]
        assert states[:2] == ["offered", "offered"] and states[2] == "invalid"
        qtbot.keyClicks(page.queue.filter, "echo")
        assert [o.offer.job_name for o in page.queue.model.offers] == ["ejection-fraction-from-echo"]
        assert page.review.offer_id == page.queue.model.offers[0].id
        hidden = next(o.id for o in office.store.offers.values() if o.offer.job_name == "frailty-index")
        page.show_item(hidden)
        assert page.queue.current_id == hidden and page.queue.filter.text() == ""


def test_an_offer_decided_elsewhere_changes_the_bar_at_once(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        offer_id = show(qtbot, page, "heart-risk", "1.3.0")
        changed = pb.SiloOffer()
        changed.CopyFrom(office.store.offers[offer_id])
        changed.state, changed.reason = "withdrawn", "The study was called off."
        office.daemon.put("offer", changed)
        qtbot.waitUntil(lambda: not page.review.approve.isVisible())
        assert "The study was called off." in page.review._detail.text()


def test_a_refused_decision_is_told_and_can_be_tried_again(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        office.daemon.faults["Approvals.Decide"] = UserError("OCT-APPROVAL-STATE", "It was decided already.")
        page = open_page(qtbot, office)
        show(qtbot, page, "heart-risk", "1.3.0")
        qtbot.mouseClick(page.review.ask, Qt.MouseButton.LeftButton)
        dialog = dialog_of(qtbot, page, ReasonDialog)
        qtbot.keyClicks(dialog.field, "Clip the update, please.")
        qtbot.keyClick(dialog.field, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
        give_passphrase(qtbot, page)
        qtbot.waitUntil(lambda: bool(office.errors), timeout=20_000)
        assert office.errors[0].code == "OCT-APPROVAL-STATE"
        assert page.review.approve.isEnabled()


def test_conditions_read_as_sentences() -> None:
    conditions = Conditions(hours_of_day=((18, 6),), max_rounds=12, max_bytes_out=1 << 20, nodes=("n1",))
    assert conditions_of(conditions.to_json()) == [
        "only between 18:00 and 6:00",
        "only on 1 of the nodes",
        "at most 12 rounds",
        "at most 1.00 MiB of updates leave",
    ]
    assert conditions_of("{broken") == [] and conditions_of("") == []


def test_after_a_revocation_the_bar_says_what_became_of_the_run() -> None:
    offer = pb.SiloOffer(id="run-1", state="approved", decided_by="Ada", decided_at=1.0)
    going = situation(offer, pb.Run(id="run-1", state="training"), time.time())
    assert going.revoke
    over = situation(offer, pb.Run(id="run-1", state="stopped", reason="The study was called off."), time.time())
    assert not over.revoke and "The study was called off." in over.detail


def test_notes_come_back_from_the_history() -> None:
    reply = pb.ReviewReply()
    reply.offer.offer.package.digest = "aa"
    reply.history.add(at=2, what="note", text="code/a.py:7 Ask: why?\nTwice.", digest="aa")
    reply.history.add(at=1, what="note", text="code/a.py:7 older", digest="aa")
    reply.history.add(at=3, what="note", text="code/a.py:7 of another version", digest="bb")
    reply.history.add(at=4, what="approved", text="x:1 y", digest="aa")
    assert notes_of(reply) == {"code/a.py": {7: "Ask: why?\nTwice."}}


def test_an_empty_queue_leads_to_the_next_step(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path, empty=True) as office:
        page = open_page(qtbot, office)
        assert page._empty.isVisible()
        qtbot.mouseClick(page._empty.button, Qt.MouseButton.LeftButton)
        assert office.opened == [("page", "federations")]
