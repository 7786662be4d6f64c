"""Python environments in the window: looked at line by line, added, removed, and chosen at an approval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6.QtWidgets import QDialog, QMessageBox
from pytestqt.qtbot import QtBot

from octopus_desktop.gui.dialogs.add_runtime import AddRuntime, proposed
from octopus_desktop.gui.dialogs.approve import ApproveDialog
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from tests.gui.desk import make_desk
from tests.gui.sample_data import make_review


def dialog(page: Any) -> Any:
    return next(d for d in page.findChildren(QDialog) if d.isVisible())


def test_an_environment_is_looked_at_line_by_line_then_added(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        page = desk.page("runtimes")
        assert {page.table.model.row(n).name for n in range(2)} == {"imaging", "flower"}
        page.add()
        asked = dialog(page)
        assert not asked.act.isEnabled()
        asked.path.setText("/srv/environments/echo")
        desk.until(lambda: len(asked.lines.steps) >= 2)
        assert asked.lines.is_busy and not asked.act.isEnabled(), "the rest is still looked at"
        desk.until(lambda: not asked.lines.is_busy)
        assert [s.name for s in asked.lines.steps][:4] == ["Python", "packages", "torch", "training"]
        assert asked.name.text() == "echo" and asked.act.isEnabled(), "a waiting job lacks something: no matter"
        asked.act.click()
        desk.until(lambda: any(r.name == "echo" for r in desk.context.store.runtimes.values()))
        [request] = desk.called("Runtimes.Add")
        assert (request.name, request.path) == ("echo", "/srv/environments/echo")


def test_what_is_no_python_cannot_be_added(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        page = desk.page("runtimes")
        page.add()
        asked: AddRuntime = dialog(page)
        asked.path.setText("/nowhere")
        desk.until(lambda: asked.lines.state("training") == "untried" and not asked.lines.is_busy)
        asked.name.setText("nothing")
        assert not asked.act.isEnabled() and asked.lines.state("Python") == "failed"
        asked.path.setText("/srv/environments/echo")
        assert asked.lines.steps == [], "another path forgets what was found"
        desk.until(lambda: asked.act.isEnabled())
        assert asked.name.text() == "nothing", "a name that a person gave is kept"
        desk.daemon.faults["Runtimes.Add"] = UserError("OCT-RUNTIME-BROKEN", "It broke.", "Just now.", "Look again.")
        asked.act.click()
        desk.until(lambda: "It broke." in asked.problem.text())
        assert asked.act.isEnabled() and asked.isVisible()
        asked.reject()


def test_an_environment_is_looked_at_again_and_removed(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        page = desk.page("runtimes")
        page.show_item("v-flower")
        detail = page._detail
        assert "libcudart" in detail._problem.text() and detail.packages.model.total == 2
        detail.again.click()
        desk.until(lambda: detail.again.isEnabled() and len(detail.lines.steps) == 6)
        [request] = desk.called("Runtimes.Check")
        assert request.id == "v-flower"
        page.show_item("v-imaging")
        desk.until(lambda: not detail.look.isVisible())
        desk.daemon.faults["Runtimes.Remove"] = UserError("OCT-RUN-STATE", "It is in use.", "", "Stop the run first.")
        page.remove(desk.context.store.runtimes["v-imaging"])
        dialog(page).act.click()
        desk.until(lambda: any("in use" in box.text() for box in desk.window.findChildren(QMessageBox)))
        desk.daemon.faults.clear()
        page.remove(desk.context.store.runtimes["v-imaging"])
        dialog(page).act.click()
        desk.until(lambda: list(desk.context.store.runtimes) == ["v-flower"])


def test_the_built_in_environment_can_be_looked_at_where_there_is_no_other(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path, empty=True) as desk:
        page = desk.page("runtimes")
        assert page._more.isVisibleTo(page)
        page._more.click()
        shown = dialog(page)
        desk.until(lambda: len(shown.lines.steps) == 6 and not shown.lines.is_busy)
        shown.act.click()


def make_approval(qtbot: QtBot, *matches: pb.RuntimeMatch, needs: tuple[str, ...] = ("monai>=1.6",)) -> ApproveDialog:
    review = pb.ReviewReply(requirements=needs, runtimes=matches)
    made = ApproveDialog(None, review, {}, {}, "Dr. Ruth Adler")
    qtbot.addWidget(made)
    return made


def test_the_approval_proposes_an_environment_that_has_what_the_job_needs(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        offer = desk.context.store.waiting()[0]
        store = desk.context.store
        asked = ApproveDialog(None, make_review(offer, 0.0), store.datasets, store.nodes, "Dr. Ruth Adler")
    qtbot.addWidget(asked)
    assert asked.conditions.runtime == "v-imaging" and asked.problem == ""
    assert '"runtime":"v-imaging"' in asked.conditions.to_json().replace(" ", "")
    hint = asked._runtime._hint.text()
    assert "The job needs monai>=1.6." in hint and "built-in lacks monai>=1.6 (not installed)." in hint
    assert "flower cannot be used now." in hint
    assert not asked._runtime.choice.model().item(0).isEnabled(), "the built-in one lacks it"


def test_no_environment_that_fits_keeps_from_approving(qtbot: QtBot) -> None:
    asked = make_approval(qtbot, pb.RuntimeMatch(name="built-in", lacks=["monai>=1.6 (not installed)"]))
    assert "No Python environment" in asked.problem and not asked.confirm.isEnabled()
    assert "page Runtimes" in asked._runtime._hint.text()


def test_a_job_that_needs_nothing_trains_in_the_built_in_one(qtbot: QtBot) -> None:
    asked = make_approval(qtbot, pb.RuntimeMatch(name="built-in", fits=True), needs=())
    assert asked.conditions.runtime == "" and asked.problem == "" and "runtime" not in asked.conditions.to_json()
    other = pb.RuntimeMatch(runtime_id="v-1", name="own", fits=True)
    both = make_approval(qtbot, pb.RuntimeMatch(name="built-in", fits=True), other, needs=())
    assert both.conditions.runtime == ""
    both._runtime.choice.setCurrentIndex(1)
    assert both.conditions.runtime == "v-1"


def test_an_environments_name_comes_from_where_it_lies() -> None:
    assert proposed("/srv/Echo Lab") == "echo-lab"
    assert proposed("/srv/echo/.venv") == proposed("/srv/echo/.venv/bin/python3.12") == "echo"
