"""Runs beside each other in the window: chosen in the list, drawn in one chart, told apart in a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6.QtCore import QItemSelectionModel, Qt

from octopus_desktop.gui.pages.runs import RunsPage
from octopus_desktop.wire.pb import local_pb2 as pb
from tests.gui.review_desk import desk
from tests.gui.test_gui_runs import open_page


def compare(qtbot: Any, page: RunsPage, *states: str) -> dict[str, str]:
    """Select runs by their states and compare them; state -> id."""
    ids = {state: next(r.id for r in page._context.store.runs.values() if r.state == state) for state in states}
    page.table.view.clearSelection()
    rows = QItemSelectionModel.SelectionFlag.Select | QItemSelectionModel.SelectionFlag.Rows
    for run_id in ids.values():
        page.table.view.selectionModel().select(page.table.model.index(page.table.model.position(run_id), 0), rows)
    qtbot.mouseClick(page._compare, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: len(page.compare.details) == len(ids))
    return ids


def line(page: RunsPage, name: str, run_id: str) -> str:
    table = page.compare.table
    assert table is not None
    row = table.model.get(name)
    return row.values[page.compare.runs.index(run_id)] if row else ""


def test_two_runs_stand_in_one_chart_and_say_what_differs(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        assert not page._compare.isEnabled()
        page.table.view.selectRow(0)
        assert not page._compare.isEnabled(), "one alone cannot be compared"
        ids = compare(qtbot, page, "completed", "stopped")
        view = page.compare
        assert view.isVisible() and view.which_metric.currentText() == "eval/accuracy"
        assert set(view.chart.series.silos) == set(ids.values())
        assert len(view.chart.series.silos[ids["completed"]]) == 20
        assert line(page, "strategy", ids["stopped"]) == "fedadam"
        assert line(page, "strategy_parameters.lr", ids["completed"]) == "–"
        assert (line(page, "quorum", ids["completed"]), line(page, "quorum", ids["stopped"])) == ("3", "0")
        assert line(page, "State", ids["stopped"]) == "Stopped" and not view._same.isVisible()
        federation = view.chart.series.silos[ids["completed"]][20]
        view.whose_numbers.setCurrentIndex(1)
        assert view.chart.series.silos[ids["completed"]][20] != federation, "this silo's own"
        view.which_metric.setCurrentIndex(view.which_metric.findText("train/loss"))
        assert line(page, "Newest train/loss", ids["completed"]) == view._rows[ids["completed"]].value.text()
        page.activateWindow()
        qtbot.waitUntil(page.isActiveWindow)
        qtbot.keyClick(view.which_metric, Qt.Key.Key_Left, Qt.KeyboardModifier.AltModifier)
        assert not view.isVisible()


def test_runs_of_the_same_settings_say_so_and_a_running_one_goes_on(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        ids = compare(qtbot, page, "training", "completed")
        assert page.compare._same.isVisible()
        run = pb.Run()
        run.CopyFrom(office.store.runs[ids["training"]])
        run.round = 15
        office.daemon.put("run", run)
        qtbot.waitUntil(lambda: 15 in page.compare.chart.series.silos[run.id], timeout=8_000)
        assert line(page, "Rounds", run.id) == "15 of 20"


def test_a_run_that_goes_away_leaves_the_comparison(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        ids = compare(qtbot, page, "completed", "stopped", "failed")
        office.daemon._remove("run", ids["failed"])
        qtbot.waitUntil(lambda: page.compare.runs == [ids["completed"], ids["stopped"]])
        office.daemon._remove("run", ids["stopped"])
        qtbot.waitUntil(lambda: not page.compare.isVisible())
