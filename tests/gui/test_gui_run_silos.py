"""The silos of a run in the window: each one's curve, where it stands, the best round, how the run is held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLabel

from octopus_desktop.gui.pages.runs_overview import OverviewTab
from octopus_desktop.gui.widgets.charts import MetricChart
from octopus_desktop.gui.widgets.ink import (
    DARK,
    FEDERATION_LINE,
    LIGHT,
    LIVE_LINE,
    MANY_LINE,
    OWN_LINE,
    SILO_LINES,
    contrast,
    silo_line,
)
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.wire.pb import local_pb2 as pb
from tests.gui.review_desk import desk
from tests.gui.test_gui_runs import open_page, open_run


def test_each_silo_has_its_curve_and_says_where_it_stands(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        open_run(qtbot, page, "training")
        overview = page.detail.overview
        chart = overview.grid.charts["eval/accuracy"]
        assert set(chart.series.silos) == {"hungarian-institute", "va-long-beach", "university-hospital-zurich"}
        rows = overview.silos.rows
        assert next(iter(rows)) == "cleveland-clinic" and "this silo" in rows["cleveland-clinic"].words.text()
        assert "silent since round 10, asked 3 times" in rows["university-hospital-zurich"].words.text()
        assert "late" in rows["va-long-beach"].words.text()
        assert "Silent: university-hospital-zurich" in overview.silos.told.text()
        assert rows["hungarian-institute"].value.text() == f"{chart.series.silos['hungarian-institute'][13]:.4f}"
        qtbot.waitUntil(lambda: chart.paints > 0)
        rows["va-long-beach"].entered.emit("va-long-beach")
        assert chart.looked_at == "va-long-beach" and chart._curves["va-long-beach"].opts["pen"].widthF() > 2
        rows["va-long-beach"].left.emit()
        assert chart.looked_at == ""
        rows["va-long-beach"].setFocus()
        qtbot.keyClick(rows["va-long-beach"], Qt.Key.Key_Space)
        rows["va-long-beach"].left.emit()
        assert chart.looked_at == "va-long-beach", "a chosen one stays"


def test_the_best_round_is_marked_and_the_run_says_how_it_is_held(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        open_run(qtbot, page, "training")
        overview = page.detail.overview
        chart = overview.grid.charts["eval/accuracy"]
        assert chart.best == 13
        qtbot.waitUntil(lambda: "best round 13" in chart.best_words.text())
        told = " ".join(words.text() for words in overview.silos.findChildren(QLabel))
        for said in ("a round counts with 3 answers", "0.norm.*", "so far", "shows each silo's metrics"):
            assert said in told


def test_a_federation_that_shares_no_silos_numbers_says_so(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        tab = OverviewTab(office.context)
    qtbot.addWidget(tab)
    run = pb.Run(id="r", silos=["here", "there"], rounds=3, state="training")
    tab.set_run(run, "here", RunConfig(rounds=3, quorum=1).to_json())
    rounds = [
        pb.RunRound(round=1, local={"eval/loss": 0.4}, federation={"eval/loss": 0.5}, answered=["here", "there"]),
        pb.RunRound(round=2, local={"eval/loss": 0.3}, federation={"eval/loss": 0.4}, answered=["here"],
                    missing=["there"]),
    ]  # fmt: skip
    tab.take(rounds, [])
    qtbot.waitUntil(lambda: "silent since round 1, asked once" in tab.silos.rows["there"].words.text())
    assert tab.grid.charts["eval/loss"].series.silos == {} and tab.silos.rows["there"].value.text() == ""
    told = " ".join(words.text() for words in tab.silos.findChildren(QLabel))
    assert "not the other silos'" in told and "Best model" not in told
    strategy = tab.silos.ways["Strategy"]
    back = pb.RunRound(round=3, federation={"eval/loss": 0.3}, answered=["here", "there"])
    tab.take([back], [])
    qtbot.waitUntil(lambda: "answered in round 3" in tab.silos.rows["there"].words.text())
    assert tab.silos.ways["Strategy"] is strategy, "what stays is not made anew with each round"


def test_many_silos_share_one_muted_colour_but_for_the_one_looked_at(qtbot: Any) -> None:
    chart = MetricChart("eval/accuracy")
    qtbot.addWidget(chart)
    silos = [f"hospital-{n}" for n in range(20)]
    chart.silos = silos
    for number in (1, 2):
        chart.series.set_round(number, 0.5, 0.6, {silo: 0.4 + place / 50 for place, silo in enumerate(silos)})
    assert {chart.colour_of(silo, False) for silo in silos} == {MANY_LINE[0]}
    chart.looked_at = "hospital-7"
    assert chart.colour_of("hospital-7", False) not in (MANY_LINE[0], OWN_LINE[0])
    assert len({silo_line(silo, silos[:6]) for silo in silos[:6]}) == 6, "few have one each"
    assert chart.series.near(2.02, 0.541, (0.1, 0.01)) == ("hospital-7", 2)
    assert chart.series.near(1.5, 0.54, (0.1, 0.01)) is None


@pytest.mark.parametrize("dark", [False, True])
def test_lines_can_be_told_from_the_ground(dark: bool) -> None:
    ground = (DARK if dark else LIGHT).ground
    for pair in (*SILO_LINES, MANY_LINE, OWN_LINE, FEDERATION_LINE, LIVE_LINE):
        assert contrast(pair[dark], ground) >= 3.0, pair[dark]
