"""The review's Trial run in the window: what it offers, what it shows, and how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6.QtWidgets import QLabel

from octopus_desktop.gui.pages.approvals_trial import TrialTab
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from tests.gui.review_desk import Desk, desk
from tests.gui.sample_data import make_review


def make_trial(qtbot: Any, office: Desk, **changes: Any) -> TrialTab:
    tab = TrialTab(office.context)
    qtbot.addWidget(tab)
    tab.resize(800, 700)
    tab.show()
    review = make_review(office.store.waiting()[0], 0.0)
    for name, value in changes.items():
        if name == "data":
            del review.data[:]
            review.data.extend(value)
        else:
            setattr(review.offer, name, value)
    tab.show_review(review)
    return tab


def words(tab: TrialTab) -> str:
    return "\n".join(part.text() for part in tab.findChildren(QLabel) if not part.isHidden())


def test_a_trial_shows_what_the_job_would_have_sent(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        tab = make_trial(qtbot, office)
        assert tab.start.isEnabled() and tab.cancel.isHidden()
        tab.start.click()
        assert not tab.start.isEnabled() and not tab.cancel.isHidden()
        qtbot.waitUntil(lambda: tab.result is not None and tab.start.isEnabled())
        request = next(r for method, r in office.daemon.calls if method == "Approvals.Try")
        assert dict(request.datasets) == {"heart": "data-heart"} and request.runtime == "v-imaging"
        told = words(tab)
        for part in ("612 MiB at most", "304 in 20 steps", "train/loss 0.6123"):
            assert part in told, told
        assert tab._verdict.text == "Nothing was sent"
        assert tab.layers.model.total == 3 and "epoch 2 of 2" in tab.log.toPlainText()


def test_a_trial_is_cancelled_by_hand_and_by_another_offer(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        office.daemon.delays["Approvals.Try"] = 0.3
        tab = make_trial(qtbot, office)
        tab.start.click()
        qtbot.waitUntil(lambda: "Building" in tab._step.text())
        tab.cancel.click()
        assert tab.start.isEnabled() and "Cancelled" in tab._step.text() and tab._trying is None
        tab.start.click()
        trying = tab._trying
        tab.show_review(make_review(office.store.waiting()[1], 0.0))
        assert trying is not None and not trying.wanted and tab._going.isHidden()


def test_what_goes_wrong_is_told_beside_the_button(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        office.daemon.faults["Approvals.Try"] = UserError(
            "OCT-RUN-SANDBOX", "It cannot be confined.", "No bwrap.", "Install."
        )
        tab = make_trial(qtbot, office)
        tab.start.click()
        qtbot.waitUntil(lambda: "OCT-RUN-SANDBOX" in tab.problem.text() and tab.start.isEnabled())
        tab._show_result(pb.TryResult(error="no such scanner", error_code="OCT-RUN-TRAINER", seconds=3))
        assert "no such scanner [OCT-RUN-TRAINER]" in words(tab) and tab.layers.isHidden()


def test_what_cannot_be_tried_says_why(qtbot: Any, tmp_path: Path) -> None:
    with desk(qtbot, tmp_path) as office:
        decided = make_trial(qtbot, office, state="approved")
        assert not decided.start.isEnabled() and "waits for a decision" in decided._why.text()
        nothing = make_trial(
            qtbot, office, data=[pb.DataMatch(need="heart", dataset_id="data-echo", problem="lacks age")]
        )
        assert not nothing.start.isEnabled() and "No registered dataset" in nothing._why.text()
