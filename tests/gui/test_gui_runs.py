"""What an administrator relies on while a run goes on: the real widgets against the sample daemon."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QWheelEvent

from octopus_desktop.gui.dialogs.reason import ReasonDialog
from octopus_desktop.gui.pages.runs import RunsPage, fraction_of
from octopus_desktop.gui.widgets.charts import ChartGrid, LivePoint, MetricChart
from octopus_desktop.gui.widgets.spans import Bar, Spans, ticks
from octopus_desktop.gui.widgets.timeline import Timeline, duration
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from tests.gui.review_desk import Desk, desk


def open_page(qtbot: Any, office: Desk) -> RunsPage:
    page = RunsPage(office.context)
    qtbot.addWidget(page)
    page.resize(1180, 700)
    with qtbot.waitExposed(page):
        page.show()
    return page


def open_run(qtbot: Any, page: RunsPage, state: str) -> pb.Run:
    run = next(r for r in page._context.store.runs.values() if r.state == state)
    page.show_item(run.id)
    qtbot.waitUntil(lambda: page.detail.timeline.view.spans.count > 0 and page.detail.models.table.model.total > 0)
    return run


def bars(count: int, lane: str = "worker 0", start: float = 1_000_000.0, each: float = 1.0) -> list[Bar]:
    steps = ("download", "train", "upload", "wait")
    return [Bar(lane, steps[n % 4], n // 4 + 1, start + n * each, start + (n + 0.9) * each) for n in range(count)]


def test_the_table_filters_by_state_and_text_and_opens_a_run(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        assert page.table.model.rowCount() == 5
        page.which.setCurrentIndex(3)
        assert {page.table.model.row(n).state for n in range(page.table.model.rowCount())} == {"failed", "stopped"}
        page.which.setCurrentIndex(0)
        qtbot.keyClicks(page.table.filter, "lasso")
        qtbot.waitUntil(lambda: page.table.model.rowCount() == 1)
        page.table.view.setCurrentIndex(page.table.model.index(0, 0))
        qtbot.keyClick(page.table.view, Qt.Key.Key_Return)
        assert page.shows_detail
        assert "CUDA out of memory" in page.detail._problem_text.text()
        assert "OCT-RUN-WORKERS" in page.detail._problem_text.text()
        assert not page.detail.pause.isVisible() and not page.detail.stop.isVisible()
        qtbot.keyClick(page.detail, Qt.Key.Key_Left, Qt.KeyboardModifier.AltModifier)
        assert not page.shows_detail


def test_the_head_says_round_silos_and_time_left(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        run = open_run(qtbot, page, "training")
        values = page.detail._values
        assert values["round"].whole() == "13 of 20" and values["silos"].whole() == "3 of 4"
        assert "university-hospital-zurich" in page.detail._cells["silos"].toolTip()
        assert values["left"].whole() == "6 min 52 s left"
        assert page.detail.progress.value() == round(1000 * (12 + 0.46) / 20)
        changed = pb.Run()
        changed.CopyFrom(run)
        changed.round, changed.fraction = 14, 0.0
        office.daemon.put("run", changed)
        qtbot.waitUntil(lambda: values["round"].whole() == "14 of 20")
        assert fraction_of(changed) == 0.65


def test_a_run_that_waits_in_the_sites_queue_says_so(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        run = open_run(qtbot, page, "training")
        run.queue = "Slurm job 42 waits for resources, 3rd in the queue"
        page.detail._show_head()
        assert page.detail._problem.isVisible() and page.detail._problem_text.text() == run.queue
        run.queue = "Slurm job 42 runs on n1, at most until 12:00"
        page.detail._show_head()
        assert not page.detail._problem.isVisible()
        assert "Slurm job 42 runs on n1" in page.detail._values["where"].whole()


def test_pause_resume_and_stop_reach_the_daemon(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        run = open_run(qtbot, page, "training")
        qtbot.mouseClick(page.detail.pause, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: page.detail.resume.isVisible() and page.detail.resume.isEnabled())
        assert not page.detail.pause.isVisible()
        qtbot.mouseClick(page.detail.resume, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: page.detail.pause.isVisible() and page.detail.pause.isEnabled())
        qtbot.mouseClick(page.detail.stop, Qt.MouseButton.LeftButton)
        dialog = next(d for d in page.findChildren(ReasonDialog) if d.isVisible())
        assert not dialog.confirm.isEnabled()
        qtbot.keyClicks(dialog.field, "The cluster is needed.")
        qtbot.mouseClick(dialog.confirm, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: office.store.runs[run.id].state == "stopped")
        qtbot.waitUntil(lambda: not page.detail.stop.isVisible())
        stop = next(request for method, request in office.daemon.calls if method == "Runs.Stop")
        assert stop.reason == "The cluster is needed."


def test_a_failed_act_is_told_and_the_buttons_come_back(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        office.daemon.faults["Runs.Pause"] = UserError("OCT-RUN-STATE", "It is over.", "", "Look at its reason.")
        page = open_page(qtbot, office)
        open_run(qtbot, page, "training")
        qtbot.mouseClick(page.detail.pause, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: bool(office.errors))
        assert office.errors[0].code == "OCT-RUN-STATE" and page.detail.pause.isEnabled()


def test_live_points_appear_within_the_round(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        open_run(qtbot, page, "training")
        charts = page.detail.overview.grid.charts
        assert {"eval/accuracy", "train/loss"} <= set(charts)
        series = charts["train/loss"].series
        before = len(series.live)
        qtbot.waitUntil(lambda: len(series.live) >= before + 3, timeout=5_000)
        xs, _ys = series.live_line()
        assert xs == sorted(xs) and 12 < xs[-1] <= 13
        qtbot.waitUntil(lambda: charts["train/loss"].paints > 0)
        accuracy = charts["eval/accuracy"]
        assert accuracy.series.federation[13] > accuracy.series.local[13]
        qtbot.waitUntil(lambda: "federation" in accuracy.numbers.text())


def test_leaving_a_run_ends_its_stream(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        open_run(qtbot, page, "training")
        follow = page.detail._follow
        assert follow is not None and follow.wanted
        page.show_list()
        assert not follow.wanted


def test_a_chart_paints_at_most_ten_times_a_second_and_only_when_seen(qtbot: Any) -> None:
    chart = MetricChart("train/loss")
    qtbot.addWidget(chart)
    for step in range(50):
        chart.series.add_live(LivePoint("silo", 1, step + 1, 1.0 / (step + 1)))
        chart.touch()
    qtbot.wait(150)
    assert chart.paints == 0
    chart.resize(400, 240)
    chart.show()
    qtbot.waitUntil(lambda: chart.paints == 1)
    start = time.perf_counter()
    while time.perf_counter() - start < 0.5:
        chart.series.add_live(LivePoint("silo", 2, chart.series.steps + 1, 0.5))
        chart.touch()
        qtbot.wait(5)
    assert 2 <= chart.paints <= 8
    painted = chart.paints
    qtbot.wait(250)
    assert chart.paints <= painted + 1


def test_charts_pass_over_weights_and_what_is_no_number(qtbot: Any) -> None:
    grid = ChartGrid()
    qtbot.addWidget(grid)
    grid.set_round(1, {"eval/accuracy": 0.5, "eval/examples": 90.0}, {"eval/accuracy": float("nan")})
    assert list(grid.charts) == ["eval/accuracy"]
    assert grid.charts["eval/accuracy"].series.federation == {}
    grid.add_live([("train/loss", LivePoint("worker 0", 1, 1, 2.0)), ("train/loss", LivePoint("worker 1", 1, 1, 4.0))])
    series = grid.charts["train/loss"].series
    assert series.live_line() == ([1.0], [3.0])
    grid.add_live([("train/loss", LivePoint("worker 0", number, 1, 1.0)) for number in (2, 3, 4)])
    assert series.live_line()[0] == [2.0, 3.0, 4.0], "older rounds have values of their own"


def test_what_left_lists_each_message_with_its_layers(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        open_run(qtbot, page, "training")
        left = page.detail.left
        assert left.table.model.total == 13 and "26.0 MiB" in left._sum.text()
        assert left.table.current().round == 13
        assert [left.layers.model.row(n).name for n in range(4)] == ["0.bias", "0.weight", "2.bias", "2.weight"]
        page.detail.tabs.setCurrentWidget(left)
        left.table.view.selectRow(12)
        assert "round 1" in left._of.text()


def test_a_model_is_exported_for_the_chosen_round(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        run = open_run(qtbot, page, "completed")
        models = page.detail.models
        assert models.table.model.total == 20 and not models.export.isEnabled()
        models.table.choose("7")
        assert models.export.isEnabled()
        models.export_to("out.safetensors")
        qtbot.waitUntil(lambda: bool(office.toasts))
        request = next(request for method, request in office.daemon.calls if method == "Runs.ExportModel")
        assert (request.id, request.round, request.path) == (run.id, 7, "out.safetensors")


def test_the_silos_own_model_is_exported_where_there_is_one(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        run = open_run(qtbot, page, "completed")
        models = page.detail.models
        page.detail.tabs.setCurrentWidget(models)
        assert not models.own.isVisible(), "this job keeps none"
        detail = pb.RunDetail(run=run, config_json=RunConfig(personal_epochs=1, personal_keep=True).to_json())
        page.detail._on_update(run.id, detail)
        assert models.own.isVisible()
        models.export_own_to("own.safetensors")
        qtbot.waitUntil(lambda: bool(office.toasts))
        request = next(request for method, request in office.daemon.calls if method == "Runs.ExportModel")
        assert (request.id, request.personal, request.path) == (run.id, True, "own.safetensors")
        assert models.own.isEnabled()


def test_the_log_shows_this_runs_lines_only(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        open_run(qtbot, page, "training")
        page.detail.tabs.setCurrentWidget(page.detail.logs)
        view = page.detail.logs.view
        qtbot.waitUntil(lambda: "Worker 0 uses cuda:0" in view.toPlainText())
        assert "Link to Heart Alliance" not in view.toPlainText()
        page.detail.logs.level.setCurrentIndex(3)
        qtbot.waitUntil(lambda: "died" in view.toPlainText() and "Worker 0 uses" not in view.toPlainText())


def test_the_detail_comes_back_after_the_daemon_was_away(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        page = open_page(qtbot, office)
        open_run(qtbot, page, "training")
        office.daemon.stop()
        qtbot.waitUntil(lambda: not office.client.is_connected, timeout=10_000)
        office.daemon.calls.clear()
        office.daemon.start()
        office.client.retry()
        qtbot.waitUntil(lambda: any(m == "Runs.Detail" for m, _ in office.daemon.calls), timeout=15_000)
        series = page.detail.overview.grid.charts["train/loss"].series
        before = len(series.live)
        qtbot.waitUntil(lambda: page.detail._follow is not None and len(series.live) >= before)


def test_a_bar_is_found_where_it_is_painted(qtbot: Any) -> None:
    view = Timeline()
    qtbot.addWidget(view)
    view.resize(900, 300)
    view.show()
    view.add([*bars(8), *bars(8, "server", each=1.5), *bars(4, "silo")])
    qtbot.waitUntil(lambda: abs(view.moment_at(view.width()) - view.spans.last) < 2)
    assert view.spans.lanes == ["worker 0", "silo", "server"]
    for lane, top in view.lane_tops():
        bar = next(b for _row, b in view.spans.visible(lane, 0, 2e9, 0) if b.step == "train")
        middle = QPointF(view.x_of((bar.start + bar.end) / 2), top + view.row / 2)
        assert view.bar_at(middle) == bar
    assert view.bar_at(QPointF(10, 100)) is None
    text = view.text_of(bar)
    assert "train" in text and "server" in text and "round 1" in text and "1.35 s" in text


def test_the_wheel_zooms_about_the_cursor_and_fit_shows_all(qtbot: Any) -> None:
    view = Timeline()
    qtbot.addWidget(view)
    view.resize(900, 300)
    view.show()
    view.add(bars(100))
    qtbot.waitUntil(lambda: view.spans.count == 100 and view.scale != 1.0)
    x, whole = 500.0, view.scale
    fixed = view.moment_at(x)
    wheel = QWheelEvent(
        QPointF(x, 100), QPointF(x, 100), QPoint(), QPoint(0, 240), Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
    )  # fmt: skip
    view.wheelEvent(wheel)
    assert view.scale < whole and abs(view.moment_at(x) - fixed) < 1e-6
    left = view.start
    qtbot.mousePress(view, Qt.MouseButton.LeftButton, pos=QPoint(500, 250))
    qtbot.mouseMove(view, QPoint(450, 250))
    qtbot.mouseRelease(view, Qt.MouseButton.LeftButton, pos=QPoint(450, 250))
    assert view.start > left and not view.follow
    qtbot.keyClick(view, Qt.Key.Key_0)
    assert view.follow and abs(view.scale - whole) < 1e-9


def test_the_arrow_keys_walk_from_bar_to_bar(qtbot: Any) -> None:
    view = Timeline()
    qtbot.addWidget(view)
    view.resize(900, 300)
    view.show()
    view.add([*bars(6), *bars(6, "server")])
    qtbot.waitUntil(lambda: view.scale != 1.0)
    qtbot.keyClick(view, Qt.Key.Key_Right)
    first = view.current
    qtbot.keyClick(view, Qt.Key.Key_Right)
    assert first is not None and view.current is not None and view.current.start > first.start
    qtbot.keyClick(view, Qt.Key.Key_Down)
    assert view.current.lane == "server"
    assert view.current.lane in view.accessibleDescription()


def test_of_fifty_thousand_bars_no_more_are_drawn_than_there_are_pixels(qtbot: Any) -> None:
    view = Timeline()
    qtbot.addWidget(view)
    view.resize(1100, 400)
    for worker in range(5):
        view.add(bars(10_000, f"worker {worker}"))
    assert view.spans.count == 50_000
    view.show()
    qtbot.waitUntil(lambda: view.scale != 1.0)
    view.grab()
    drawn = sum(1 for lane in view.spans.lanes for _ in view.spans.visible(lane, 0, 2e9, view.scale))
    assert drawn <= 5 * 1100


def test_a_late_bar_repaints_its_own_place_only(qtbot: Any) -> None:
    view = Timeline()
    qtbot.addWidget(view)
    view.resize(900, 300)
    view.show()
    view.add(bars(40))
    qtbot.waitUntil(lambda: view.scale != 1.0)
    view.zoom(1.0)
    qtbot.wait(150)
    areas: list[int] = []
    paint = view.paintEvent

    def record(event: Any) -> None:
        areas.append(event.rect().width() * event.rect().height())
        paint(event)

    view.paintEvent = record
    view.add([Bar("worker 0", "train", 3, 1_000_010.92, 1_000_010.98)])
    qtbot.waitUntil(lambda: bool(areas))
    assert max(areas) < view.width() * view.height() / 10


def test_spans_refuse_nonsense_and_duplicates() -> None:
    spans = Spans()
    good = Bar("silo", "train", 1, 10.0, 12.0)
    assert spans.add(good) and not spans.add(good)
    for bad in (
        Bar("silo", "train", 1, 12.0, 10.0),
        Bar("silo", "train", 1, float("nan"), 3.0),
        Bar("silo", "train", 1, 1.0, float("inf")),
        Bar("silo", "train", 1, 0.0, 5.0),
    ):
        assert not spans.add(bad)
    assert spans.count == 1 and spans.totals == {"train": 2.0}
    assert spans.add(Bar("silo", "upload", 1, 11.0, 13.0)) and spans.rows("silo") == 2


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 40)), max_size=60))
def test_rows_never_overlap_and_nothing_is_lost(pieces: list[tuple[int, int]]) -> None:
    spans, taken = Spans(), 0
    for begin, length in pieces:
        taken += spans.add(Bar("silo", "train", 1, float(begin), float(begin + length)))
    seen = list(spans.visible("silo", 0.0, 1000.0, 0.0))
    assert len(seen) == taken == len({begin for begin, _ in pieces})
    for row in range(spans.rows("silo")):
        inside = [bar for number, bar in seen if number == row]
        assert all(a.end <= b.start + 1e-6 for a, b in itertools.pairwise(inside))


@given(st.floats(0, 1e6), st.floats(1e-3, 1e6), st.integers(1, 30))
def test_ticks_are_few_and_within(start: float, width: float, most: int) -> None:
    found = ticks(start, start + width, most)
    assert len(found) <= most + 1
    slack = 1e-6 * (start + width)  # far below a pixel
    assert all(start - slack <= t <= start + width + slack for t in found)


def test_durations_read_as_people_write_them() -> None:
    assert [duration(s) for s in (0, 0.34, 12.4, 200, 3900)] == ["0 s", "340 ms", "12.4 s", "3 min 20 s", "1 h 05 min"]


def test_an_empty_table_leads_to_approvals(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path, empty=True) as office:
        page = open_page(qtbot, office)
        empty = page.table._empty
        assert empty is not None and empty.isVisible()
        qtbot.mouseClick(empty.button, Qt.MouseButton.LeftButton)
        assert office.opened == [("page", "approvals")]
