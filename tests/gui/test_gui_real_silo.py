"""The main path through the window with nothing played: a real server offers, the window approves, the run trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt

from octopus_desktop.cli.demo import examples
from octopus_desktop.gui.dialogs.approve import ApproveDialog
from octopus_desktop.gui.pages.approvals import ApprovalsPage
from octopus_desktop.gui.pages.runs import RunsPage
from tests.e2e.house import make_federation, running
from tests.gui.review_desk import real_desk

ENDED = ("completed", "stopped", "failed")


@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_an_offer_is_read_and_approved_in_the_window_and_its_run_is_watched(
    qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = make_federation(tmp_path, asks=("cleveland",))
    with running(federation):
        silo = federation.silos[0]
        job = federation.submit(examples() / "heart")
        run_id = federation.start_run(job, {"rounds": 3})
        federation.wait_offer(silo, run_id)
        monkeypatch.setenv("OCTOPUS_PASSPHRASE_FILE", str(silo.passphrase_file))
        with real_desk(qtbot, silo.home.root) as office:
            approvals, runs = ApprovalsPage(office.context), RunsPage(office.context)
            for page in (approvals, runs):
                qtbot.addWidget(page)
                page.resize(1190, 700)
                page.show()
            approvals.show_item(run_id)
            review = approvals.review
            qtbot.waitUntil(lambda: review.reply is not None, timeout=20_000)
            assert review.reply.offer.signature_verified and review.reply.files and review.reply.summary
            review.tabs.setCurrentWidget(review.code)
            qtbot.waitUntil(lambda: "class" in review.code.view.editor.toPlainText(), timeout=10_000)
            approvals.grab().save(str(tmp_path / "review.png"))

            qtbot.waitUntil(lambda: review.approve.isEnabled())
            qtbot.mouseClick(review.approve, Qt.MouseButton.LeftButton)
            dialog = next(d for d in approvals.findChildren(ApproveDialog) if d.isVisible())
            assert not dialog.problem
            dialog.grab().save(str(tmp_path / "approve.png"))
            qtbot.mouseClick(dialog.confirm, Qt.MouseButton.LeftButton)
            qtbot.waitUntil(
                lambda: office.store.offers[run_id].state == "approved" or bool(office.errors), timeout=30_000
            )
            assert not office.errors, str(office.errors[0])
            qtbot.waitUntil(lambda: run_id in office.store.runs, timeout=20_000)

            runs.show_item(run_id)
            detail = runs.detail
            qtbot.waitUntil(lambda: bool(detail.overview.grid.charts), timeout=90_000)
            qtbot.waitUntil(lambda: office.store.runs[run_id].state in ENDED, timeout=120_000)
            run = office.store.runs[run_id]
            assert run.state == "completed", f"{run.code}: {run.reason}"
            qtbot.waitUntil(lambda: detail.models.table.model.total == 3, timeout=20_000)
            qtbot.wait(200)  # charts paint ten times a second at most
            runs.grab().save(str(tmp_path / "overview.png"))
            charts = detail.overview.grid.charts
            assert any(chart.series.federation for chart in charts.values())
            assert any(chart.series.local for chart in charts.values())
            accuracy = next(chart.series for name, chart in charts.items() if name.startswith("eval/acc"))
            # Both lines speak of the same model at the same round.
            assert sorted(accuracy.local) == sorted(accuracy.federation) == [1, 2, 3]
            lanes = detail.timeline.view.spans.lanes
            assert "silo" in lanes and any(lane.startswith("worker") for lane in lanes)
            updates = [row for row in detail.left._rows.values() if row.kind.upper() == "ANSWER"]
            assert len(updates) >= 3 and all(row.digest for row in updates)
            detail.tabs.setCurrentWidget(detail.timeline)
            qtbot.wait(200)
            runs.grab().save(str(tmp_path / "timeline.png"))
            detail.tabs.setCurrentWidget(detail.left)
            runs.grab().save(str(tmp_path / "left.png"))
            assert not office.errors
