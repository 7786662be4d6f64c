"""The page of nodes: the line for a further machine, accepting it, removing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QDialog, QMessageBox
from pytestqt.qtbot import QtBot

from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from tests.gui.desk import make_desk


def dialog(page: Any) -> Any:
    return next(d for d in page.findChildren(QDialog) if d.isVisible())


def test_add_node_shows_the_line_once_and_copies_it(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        page = desk.page("nodes")
        page._more.click()
        asked = dialog(page)
        asked.name.setText("gpu-2")
        asked.address.setText("ws1:7470")
        asked.act.click()
        desk.until(lambda: asked.line.toPlainText() == "octopus node join OCTOPUS1.sample")
        [request] = desk.called("Nodes.Invite")
        assert (request.name, request.listen, request.address) == ("gpu-2", "", "ws1:7470")
        assert asked.line.isVisible() and not asked.name.isEnabled()
        asked.act.click()
        assert QGuiApplication.clipboard().text() == "octopus node join OCTOPUS1.sample"
        assert len(desk.called("Nodes.Invite")) == 1
        asked.reject()


def test_a_machine_that_asks_is_accepted_and_a_further_one_removed(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        page = desk.page("nodes")
        asking = pb.Node(id="n-new", name="gpu-2", state="asking", fingerprint="aaaa bbbb", version="0.1.0")
        desk.daemon.put("node", asking)
        desk.until(lambda: "n-new" in desk.context.store.nodes)
        page.show_item("n-new")
        detail = page._detail
        desk.until(lambda: detail._name.text() == "gpu-2")
        assert not detail._accept.isHidden() and detail._drain.isHidden() and not detail._remove.isHidden()
        detail._accept.click()
        dialog(page).act.click()
        desk.until(lambda: desk.context.store.nodes["n-new"].state == "ready")
        desk.until(lambda: detail._accept.isHidden() and not detail._drain.isHidden())
        detail._remove.click()
        dialog(page).act.click()
        desk.until(lambda: "n-new" not in desk.context.store.nodes)
        local = next(n for n in desk.context.store.nodes.values() if n.local)
        page.show_item(local.id)
        desk.until(lambda: detail._remove.isHidden())


def test_open_codes_are_shown_and_withdrawn(qtbot: QtBot, tmp_path: Path) -> None:
    with make_desk(qtbot, tmp_path) as desk:
        page = desk.page("nodes")
        desk.until(lambda: [c.name for c in page.codes.codes] == ["mri-reading-room", "cardio-ws-03"])
        page._withdraw(page.codes.codes[0])
        dialog(page).act.click()
        desk.until(lambda: [c.name for c in page.codes.codes] == ["cardio-ws-03"])
        page._more.click()
        asked = dialog(page)
        asked.name.setText("gpu-2")
        asked.act.click()
        desk.until(lambda: [c.name for c in page.codes.codes] == ["cardio-ws-03", "gpu-2"])
        asked.reject()
        desk.daemon.codes = desk.daemon.codes[:1]  # a machine used it
        desk.daemon.put("node", pb.Node(id="n-new", name="gpu-2", state="asking"))
        desk.until(lambda: [c.name for c in page.codes.codes] == ["cardio-ws-03"])
        desk.daemon.faults["Nodes.Withdraw"] = UserError("OCT-ENROL-USED", "It was used.", "", "Remove the node.")
        page._withdraw(page.codes.codes[0])
        dialog(page).act.click()
        desk.until(lambda: any("It was used" in d.text() for d in desk.window.findChildren(QMessageBox)))
        desk.daemon.codes = []
        page.load_codes()
        desk.until(lambda: not page.codes.isVisible())
