"""The window as a whole, on a sample daemon: pages, banner, palette, tray, dialogs, first run."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QDialog, QLabel
from pytestqt.qtbot import QtBot

from octopus_desktop.gui.app import SingleInstance
from octopus_desktop.gui.dialogs.enrol import EnrolDialog
from octopus_desktop.gui.dialogs.register_dataset import RegisterDataset
from octopus_desktop.gui.pages import pages
from octopus_desktop.gui.pages.audit import write_export
from octopus_desktop.gui.pages.policy import AddRule
from octopus_desktop.gui.palette import Palette, entries, matching
from octopus_desktop.gui.widgets.status import StatusBadge
from octopus_desktop.gui.wizards.first_run import FirstRun
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from tests.gui import sample_data as sample
from tests.gui.desk import make_desk


@pytest.fixture(autouse=True)
def sealed_by_a_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches this machine's keyring."""
    (tmp_path / "passphrase").write_text("correct horse battery")
    (tmp_path / "passphrase").chmod(0o600)
    monkeypatch.setenv("OCTOPUS_PASSPHRASE_FILE", str(tmp_path / "passphrase"))


def dialog_of(kind: type[QDialog], parent: object) -> QDialog:
    return next(d for d in parent.findChildren(kind) if d.isVisible())  # type: ignore[attr-defined]


def test_every_page_opens_by_its_shortcut(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        for spec in pages():
            desk.context.commands.run(f"page {spec.key}")
            assert type(desk.window._stack.currentWidget()).__name__ == spec.name
            assert desk.context.commands.action(f"page {spec.key}").shortcut().toString() == spec.shortcut
        assert len({spec.shortcut for spec in pages()}) == 11


def test_the_status_bar_answers_the_three_questions(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        window = desk.window
        desk.until(lambda: "2 waiting" in window._waiting.text())
        assert "1 of 2 federations away" in window._link.text() and window._running.text() == "1 running"
        window._waiting.click()
        assert window._stack.currentWidget() is window._pages["approvals"]


def test_a_daemon_that_goes_and_comes_is_told_in_the_banner(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        desk.daemon.stop()
        desk.until(lambda: desk.window.banner.isVisible())
        assert "does not answer" in desk.window.banner.text and desk.window.banner.button.text() == "Start the daemon"
        assert desk.context.commands.action("daemon start").isEnabled()
        assert not desk.context.commands.action("dataset register").isEnabled()
        desk.daemon.start()
        desk.until(lambda: not desk.window.banner.isVisible())
        assert desk.context.commands.action("dataset register").isEnabled()


def test_a_daemon_of_another_version_is_read_only_in_the_banner(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        desk.daemon.stop()
        desk.daemon.protocol = 9
        desk.daemon.start()
        desk.until(lambda: desk.context.client.is_read_only)
        desk.until(lambda: "reading only" in desk.window.banner.text)
        assert not desk.context.commands.action("federation enrol").isEnabled()


def test_the_palette_finds_commands_and_items(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        found = [entry.text for entry in matching(entries(desk.context), "cardio")]
        assert "cardio-ws-01" in found
        assert matching(entries(desk.context), "verify")[0].text == "Verify the audit record"
        palette = Palette(desk.context, desk.window)
        palette.show()
        qtbot.keyClicks(palette.field, "echo-2025")
        assert palette.list.count() == 1
        qtbot.keyClick(palette.field, Qt.Key.Key_Return)
        desk.until(lambda: desk.window._stack.currentWidget() is desk.window._pages.get("datasets"))
        assert desk.page("datasets").table.current_id() == "data-echo"


def test_the_tray_says_what_matters_most(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        tray, store = desk.window.tray, desk.context.store
        assert (tray.state.name, tray.state.count) == ("waiting", 2)
        store.offers.clear()
        assert tray.state.name == "trouble"
        for federation in store.federations.values():
            federation.link = "up"
        for dataset in store.datasets.values():
            dataset.state = "ok"
        assert tray.state.name == "training" and "round 13 of 20" in tray.state.text
        for run in store.active_runs():
            run.state = "paused"
        assert tray.state.name == "paused"
        store.runs.clear()
        assert tray.state.name == "idle"
        tray.fill_menu()
        texts = [action.text() for action in tray._menu.actions()]
        assert "Quit the window" in texts and "Stop the daemon…" in texts
        desk.daemon.stop()
        desk.until(lambda: tray.state.name == "disconnected")


def test_a_new_offer_raises_one_notification_that_opens_its_review(
    qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        told: list[tuple[str, ...]] = []
        monkeypatch.setattr(desk.window.tray, "notify", lambda *what: told.append(what))
        offer = sample.make_offer("arrhythmia", time.time(), version="0.1.0")
        desk.daemon.put("offer", offer)
        desk.until(lambda: bool(told))
        desk.daemon.put("offer", offer)
        desk.daemon.push(notice=pb.Notice(level="info", text="done"))
        desk.until(lambda: "done" in desk.window._toasts.texts())
        assert len(told) == 1 and told[0][2:] == ("offer", offer.id)


def test_pause_all_pauses_what_runs(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        desk.until(lambda: desk.context.commands.action("runs pause-all").isEnabled())
        desk.context.commands.run("runs pause-all")
        desk.until(lambda: desk.called("Runs.Pause"))
        desk.until(lambda: all(run.state == "paused" for run in desk.context.store.active_runs()))
        desk.until(lambda: not desk.context.commands.action("runs pause-all").isEnabled())


def test_the_overview_shows_what_needs_me(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        page = desk.page("overview")
        page.refresh()
        assert page._waiting.count == 2 and page._runs.count == 2 and page._nodes.count == 3
        assert page._events.count == 10 and page._problems.count == 5 and page._steps.count == 0


def test_a_new_silo_is_told_its_next_steps(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path, empty=True) as desk:
        page = desk.page("overview")
        page.refresh()
        assert page._steps.count == 3
        page._steps._lines[0]._button.click()
        assert desk.window._stack.currentWidget() is desk.page("nodes")
        for key in ("approvals", "runs", "nodes", "datasets", "federations", "policy", "audit", "logs"):
            shown = desk.page(key)
            desk.until(lambda shown=shown: any(label.text() for label in shown.findChildren(QLabel)))


def test_enrolment_tells_a_bad_invitation_and_wants_the_fingerprint_compared(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path, empty=True) as desk:
        dialog = EnrolDialog(desk.context, desk.window, "torn off")
        dialog.show()
        desk.until(lambda: "[OCT-ENROL-INVALID]" in dialog.box.problem.text())
        assert not dialog.act.isEnabled()
        dialog.box.open_file(str(tmp_path / "no-such-file"))
        assert "cannot be read" in dialog.box.problem.text()
        dialog.box.set_invitation("octopus://enrol/heart")
        desk.until(lambda: dialog.box.view is not None)
        dialog.name.setText("cleveland-clinic")
        assert not dialog.act.isEnabled()
        dialog.box.compared.setChecked(True)
        assert dialog.act.isEnabled()
        desk.daemon.faults["Federations.Enrol"] = UserError(
            "OCT-ENROL-USED", "The invitation was used before.", "", "Ask the coordinator for a new one."
        )
        dialog.act.click()
        desk.until(lambda: "[OCT-ENROL-USED]" in dialog.problem.text() and dialog.act.isEnabled())
        desk.daemon.faults.clear()
        with qtbot.waitSignal(dialog.accepted):
            dialog.act.click()
        desk.until(lambda: "fed-heart" in desk.context.store.federations)


def test_a_dataset_is_probed_before_it_is_registered(qtbot: QtBot, tmp_path: Path) -> None:
    (tmp_path / "Heart Data.csv").write_text("age,sick\n1,0\n")
    with make_desk(qtbot, tmp_path) as desk:
        dialog = RegisterDataset(desk.context, desk.window)
        dialog.show()
        dialog.path.setText(str(tmp_path / "absent.csv"))
        desk.until(lambda: "OCT-DATA-MISSING" in dialog.problem.text())
        assert not dialog.act.isEnabled() and not desk.called("Datasets.Register")
        dialog.path.setText(str(tmp_path / "Heart Data.csv"))
        desk.until(lambda: "304 rows" in dialog.preview.text())
        assert dialog.alias.text() == "heart-data"
        dialog.alias.setText("heart")
        dialog.act.click()
        desk.until(lambda: "OCT-DATA-ALIAS" in dialog.problem.text())
        dialog.alias.setText("heart-2")
        with qtbot.waitSignal(dialog.accepted):
            dialog.act.click()
        desk.until(lambda: any(d.alias == "heart-2" for d in desk.context.store.datasets.values()))


def test_removing_a_dataset_says_what_follows_and_asks_once(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        page = desk.page("datasets")
        page.show_item("data-heart")
        page.remove(desk.context.store.datasets["data-heart"])
        dialog = dialog_of(QDialog, page)
        words = " ".join(label.text() for label in dialog.findChildren(QLabel))
        assert "stays where it is" in words and "heart-risk" in words
        dialog.act.click()  # type: ignore[attr-defined]
        desk.until(lambda: "data-heart" not in desk.context.store.datasets)


def test_a_rule_is_signed_by_the_administrators_key(qtbot: QtBot, tmp_path: Path) -> None:
    from octopus_desktop.identity.keys import verify

    with make_desk(qtbot, tmp_path) as desk:
        dialog = AddRule(desk.context, desk.window)
        dialog.show()
        assert not dialog.act.isEnabled()
        dialog.name.setText("Nights")
        dialog.job.setText("heart*")
        with qtbot.waitSignal(dialog.accepted, timeout=15_000):
            dialog.act.click()
        policy = desk.called("Policies.Put")[0].policy
        assert verify(policy.approver_key, policy.statement, policy.signature)
        assert policy.statement == policy.rule_json.encode()
        assert json.loads(policy.rule_json)["max_rounds"] == 50
        desk.page("policy").show_item(policy.id)


def test_a_passphrase_is_asked_for_where_one_seals_the_key(
    qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from octopus_desktop.gui.dialogs.signing import PassphraseDialog
    from octopus_desktop.identity.secrets import approver_key, open_store

    with make_desk(qtbot, tmp_path) as desk:
        approver_key(open_store(desk.home.secrets), "Dr. Ruth Adler")
        monkeypatch.delenv("OCTOPUS_PASSPHRASE_FILE")
        dialog = AddRule(desk.context, desk.window)
        dialog.show()
        dialog.name.setText("Nights")
        dialog.job.setText("heart*")
        dialog.act.click()
        desk.until(lambda: dialog.findChildren(PassphraseDialog))
        asked = dialog_of(PassphraseDialog, dialog)
        asked.field.setText("wrong one")  # type: ignore[attr-defined]
        asked.accept()
        desk.until(lambda: any(d is not asked and d.isVisible() for d in dialog.findChildren(PassphraseDialog)))
        again = next(d for d in dialog.findChildren(PassphraseDialog) if d is not asked)
        again.field.setText("correct horse battery")
        with qtbot.waitSignal(dialog.accepted, timeout=15_000):
            again.accept()
        assert desk.called("Policies.Put")


def test_the_audit_is_verified_filtered_and_exported(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        page = desk.page("audit")
        desk.until(lambda: page.table.model.total == 240)
        page.verify()
        desk.until(lambda: "whole" in page.banner.text)
        page.action.setCurrentIndex(page.action.findData("message"))
        desk.until(lambda: page.table.model.total == 34)
        page.export_to(str(tmp_path / "audit.json"))
        desk.until(lambda: (tmp_path / "audit.json").exists())
        desk.until(lambda: any("240 entries" in text for text in desk.window._toasts.texts()))
        rows = json.loads((tmp_path / "audit.json").read_text())
        assert [row["seq"] for row in rows] == list(range(1, 241)) and rows[0]["at_utc"].endswith("UTC")


def test_an_export_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        write_export(tmp_path / "no" / "such" / "folder.csv", sample.make_audit(time.time(), 3))
    assert told.value.code == "OCT-CONFIG-INVALID"
    assert write_export(tmp_path / "audit.csv", sample.make_audit(time.time(), 3)) == 3
    assert (tmp_path / "audit.csv").read_text().startswith("seq,at_utc,actor")


def test_the_log_follows_by_level(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        page = desk.page("logs")
        desk.until(lambda: page.table.model.total > 300)
        page.level.setCurrentIndex(3)
        desk.until(lambda: 0 < page.table.model.total < 100)
        desk.page("overview")
        desk.until(lambda: page._tail is None)


def test_a_link_is_checked_step_by_step(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        page = desk.page("federations")
        page.show_item("fed-stroke")
        page._detail._on_check()
        desk.until(lambda: page._detail.check.isVisible())
        words = [label.text() for label in page._detail.check.findChildren(QLabel)]
        assert any("Ask the coordinator" in text for text in words)
        badges = [badge.text for badge in page._detail.check.findChildren(StatusBadge)]
        assert "Not tried" in badges and "1 step failed" in badges
        page.show_item("fed-heart")
        assert not page._detail.check.isVisible(), "another federation's check is not shown"


def test_the_first_run_leads_from_nothing_to_a_ready_silo(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path, empty=True, configured=False) as desk:
        desk.until(lambda: desk.window._wizard is not None)
        wizard = desk.window._wizard
        assert isinstance(wizard, FirstRun) and wizard.step == "welcome"
        wizard.set_up.click()
        wizard.organisation.setText("")
        assert not wizard.next.isEnabled()
        wizard.organisation.setText("Cleveland Clinic")
        wizard.administrator.setText("Dr. Ruth Adler")
        wizard.next.click()
        desk.until(lambda: wizard.step == "federation")
        configured = desk.called("Setup.Configure")[0]
        assert configured.organisation == "Cleveland Clinic" and len(configured.approver_key) == 32
        assert not wizard.next.isEnabled()
        wizard.box.set_invitation("octopus://enrol/heart")
        desk.until(lambda: wizard.box.view is not None)
        wizard.box.compared.setChecked(True)
        wizard.next.click()
        desk.until(lambda: wizard.step == "node")
        assert desk.called("Federations.Enrol")[0].name == "cleveland-clinic"
        wizard.next.click()
        desk.until(lambda: wizard.step == "dataset")
        wizard.skip.click()
        assert wizard.step == "done" and "Heart Alliance" in wizard._summary.text()
        wizard.next.click()
        desk.until(lambda: desk.window._wizard is None)


def test_a_step_that_fails_says_why_and_can_be_tried_again(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path, empty=True, configured=False) as desk:
        desk.until(lambda: desk.window._wizard is not None)
        wizard = desk.window._wizard
        assert isinstance(wizard, FirstRun)
        desk.daemon.faults["Setup.Configure"] = UserError("OCT-DISK-FULL", "The disk is full.", "", "Make room.")
        wizard.set_up.click()
        wizard.organisation.setText("Cleveland Clinic")
        wizard.next.click()
        desk.until(lambda: "[OCT-DISK-FULL]" in wizard.problem.text())
        assert wizard.step == "organisation" and wizard.next.isEnabled()
        wizard.reject()


def test_a_second_window_raises_the_first(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        first = SingleInstance(desk.home)
        assert not first.hand_over("")
        first.listen(desk.app)
        desk.window.hide()
        assert SingleInstance(desk.home).hand_over("octopus://enrol/heart")
        desk.until(lambda: desk.window.isVisible())
        desk.until(lambda: bool(desk.window.findChildren(EnrolDialog)))
        first.close()


def test_closing_the_window_leaves_the_daemon(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        with qtbot.waitSignal(desk.window.quit_wanted):
            desk.window.close()
        assert not desk.called("Daemon.Shutdown")


def test_appearance_is_chosen_and_remembered(qtbot: QtBot, tmp_path: Path, qapp: QApplication) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        page = desk.page("settings")
        dark = page._group.buttons()[2]
        dark.click()
        assert desk.context.theme.dark and desk.context.settings.get("appearance") == "dark"
        page._group.buttons()[1].click()


def test_everything_that_takes_focus_has_a_name(qtbot: QtBot, tmp_path: Path) -> None:
    from PySide6.QtWidgets import QAbstractButton, QComboBox, QLineEdit, QPlainTextEdit, QWidget

    with make_desk(qtbot, tmp_path) as desk:
        nameless = []
        for spec in pages():
            page = desk.page(spec.key)
            qtbot.wait(50)
            kinds = (QAbstractButton, QComboBox, QLineEdit, QPlainTextEdit)
            for widget in page.findChildren(QWidget):
                if not isinstance(widget, kinds) or not widget.isVisible() or widget.objectName().startswith("qt_"):
                    continue
                text = widget.text() if isinstance(widget, QAbstractButton) else ""
                if not (text or widget.accessibleName()) and widget.focusPolicy() != Qt.FocusPolicy.NoFocus:
                    nameless.append((spec.key, type(widget).__name__, widget.toolTip()))
        assert nameless == []
