"""A run's System tab: the load of the machines that it trains on, and its traffic, as it comes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from octopus_desktop.gui.models.load import KEPT_S, LoadHistory, Track
from octopus_desktop.gui.widgets.spark import Spark
from octopus_desktop.wire.pb import local_pb2 as pb
from tests.gui.review_desk import desk
from tests.gui.test_gui_runs import open_page, open_run


def test_load_of_the_runs_machines_is_drawn_as_it_comes(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        open_run(qtbot, page, "training")
        system = page.detail.system
        page.detail.tabs.setCurrentWidget(system)
        assert list(system.cards) == ["", "node-ws1"], "without conditions a run trains on this machine"
        sparks = system.cards["node-ws1"].sparks
        assert {"cpu", "ram", "disk", "gpu 0 load", "gpu 1 temperature"} <= set(sparks)
        node = pb.Node()
        node.CopyFrom(office.store.nodes["node-ws1"])
        node.seen_at, node.cpu_load, node.gpus[0].power_w = node.seen_at + 2, 0.91, 266
        office.daemon.put("node", node)
        qtbot.waitUntil(lambda: sparks["cpu"].value.text().startswith("91"), timeout=5_000)
        assert sparks["gpu 0 power"].value.text() == "266 W" and len(sparks["cpu"].line.points) == 2
        assert system._told.text().startswith("What these machines do now, for this run")


def test_the_machines_of_the_approval_are_shown_and_one_that_is_away_has_no_numbers(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        run = pb.Run()
        run.CopyFrom(next(r for r in office.store.runs.values() if r.state == "training"))
        run.conditions_json = '{"nodes":["node-ws1","node-ct"]}'
        office.daemon.put("run", run)
        qtbot.waitUntil(lambda: bool(office.store.runs[run.id].conditions_json))
        open_run(qtbot, page, "training")
        system = page.detail.system
        page.detail.tabs.setCurrentWidget(system)
        assert list(system.cards) == ["", "node-ws1", "node-ct"]
        assert system.cards["node-ct"].sparks["cpu"].value.text() == "–"
        office.daemon._remove("node", "node-ct")
        qtbot.waitUntil(lambda: list(system.cards) == ["", "node-ws1"])
        office.daemon._remove("node", "node-ws1")
        qtbot.waitUntil(lambda: system.cards == {} and system._stack.currentIndex() == 0)


def test_a_run_that_is_over_says_that_its_machines_do_other_things_now(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        open_run(qtbot, page, "completed")
        assert "not what they did for it" in page.detail.system._told.text()


def test_bytes_become_a_rate_and_old_points_go() -> None:
    history, now = LoadHistory(), time.time()
    history.run(pb.Run(id="r", bytes_out=1000, bytes_in=0), now)
    assert history.track("r", "out").last is None, "the first word only begins the count"
    history.run(pb.Run(id="r", bytes_out=5000, bytes_in=100), now + 2)
    history.run(pb.Run(id="r", bytes_out=9000, bytes_in=100), now + 2)  # in the same moment: no rate
    assert (history.track("r", "out").last, history.track("r", "in").last) == (2000.0, 50.0)
    track = Track()
    for at in (now, now - 5, now + 10, now + 20 + KEPT_S):
        track.add(at, 1.0)
    assert [at for at, _ in track.points] == [now + 20 + KEPT_S], "no point goes back in time, none stays for ever"
    history.node(pb.Node(id="n", state="offline", cpu_load=0.5), now)
    assert history.track("n", "cpu").last is None


def test_a_spark_ends_at_its_right_edge_and_stays_within(qtbot: Any) -> None:
    spark = Spark("Processors", lambda value: f"{value:.0%}", 1.0)
    qtbot.addWidget(spark)
    spark.resize(202, 80)
    spark.show()
    track = Track()
    for second, value in ((0, 0.0), (150, 3.0), (300, 0.5)):
        track.add(1_000_000.0 + second, value)
    spark.show_track(track)
    corners = spark.line.polygon()
    assert corners.count() == 3 and corners.last().x() == spark.line.width() - 1
    assert all(0 <= c.x() <= spark.line.width() and 0 <= c.y() <= spark.line.height() for c in corners.toList())
    assert spark.value.text() == "50%" and spark.accessibleName() == "Processors: 50%"
    spark.grab()
