"""The review of one offer: who asks, the decision bar, the tabs. Decisions are signed here and sent to the daemon."""

from __future__ import annotations

import time

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QLabel, QStackedWidget, QTabWidget, QVBoxLayout, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.dialogs.approve import ApproveDialog
from octopus_desktop.gui.dialogs.reason import ReasonDialog, wording
from octopus_desktop.gui.dialogs.signing import make_statement, sign_with_prompt
from octopus_desktop.gui.pages.approvals_code import ChangesTab, CodeTab
from octopus_desktop.gui.pages.approvals_tabs import FindingsTab, HistoryTab, SummaryTab
from octopus_desktop.gui.pages.approvals_trial import TrialTab
from octopus_desktop.gui.pages.approvals_words import Situation, shortened, situation
from octopus_desktop.gui.theme import GRID, set_role
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import Card, ElidedLabel, EmptyState, IdLabel, TimeLabel, button, label
from octopus_desktop.gui.widgets.status import StatusBadge
from octopus_desktop.jobs.approval import Statement
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb.envelope_pb2 import Decision

WITH_PACKAGE = ("offered", "approved", "rejected", "changes_requested", "revoked", "expired", "withdrawn")


class ReviewPanel(QWidget):
    """Shows the offer ``offer_id``; "" shows nothing.

    Attributes:
        offer_id: what is shown.
        reply: the daemon's review of it, None while it is being fetched or when there is none.
        situation: what can be decided now.
    """

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.offer_id, self.situation = "", Situation()
        self.reply: pb.ReviewReply | None = None
        self._busy = False
        self._loaded = ""
        self.summary = SummaryTab(context)
        self.code = CodeTab(context)
        self.changes = ChangesTab(context)
        self.findings = FindingsTab(context)
        self.trial = TrialTab(context)
        self.history = HistoryTab(context)
        self.tabs = QTabWidget(documentMode=True)
        for tab, name in (
            (self.summary, self.tr("Summary")),
            (self.code, self.tr("Code")),
            (self.changes, self.tr("Changes")),
            (self.findings, self.tr("Findings")),
            (self.trial, self.tr("Trial run")),
            (self.history, self.tr("History")),
        ):
            self.tabs.addTab(tab, name)
        self.findings.place_opened.connect(self._on_place_opened)
        self._header = self._make_header()
        self._wait = EmptyState(context.theme, "download", self.tr("The review is being read"), "")
        self._wrong = EmptyState(
            context.theme, "alert", self.tr("There is no review"), self.tr("…"), self.tr("Try again"), self._load
        )
        self._wrong_text = self._wrong.findChildren(QLabel)[-1]
        self._stack = QStackedWidget()
        for widget in (self.tabs, self._wait, self._wrong):
            self._stack.addWidget(widget)
        context.client.connected.connect(self._on_connected)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(GRID)
        column.addWidget(self._header)
        column.addWidget(self._stack, 1)

    # What comes in

    def show_offer(self, offer_id: str) -> None:
        self.offer_id, self.reply, self._loaded = offer_id, None, ""
        self.tabs.setCurrentIndex(0)
        self._show_header()
        self._load()

    def offer_changed(self, offer_id: str) -> None:
        """The store has a newer version of this offer."""
        if offer_id != self.offer_id or not offer_id:
            return
        self._show_header()
        offer = self._offer
        if offer is not None and self._mark(offer) != self._loaded:
            self._load()

    def world_changed(self, kind: str, item_id: str) -> None:
        """A run or dataset changed: an approved offer's run may be over, a need may fit now."""
        if kind == "run" and item_id == self.offer_id:
            self._show_header()
        offer = self._offer
        if offer is None:
            return
        new_data = kind in ("dataset", "runtime") and offer.state == "offered"
        if new_data or (kind == "federation" and self._mark(offer) != self._loaded):
            self._load()

    def _mark(self, offer: pb.SiloOffer) -> str:
        """What of an offer and its federation's carriers decides the review; bytes and round trips do not."""
        federation = self._context.store.federations.get(offer.federation_id)
        carriers = (
            [(v.name, v.settings_json, v.own_json, v.link == "refused") for v in federation.carriers]
            if federation
            else []
        )
        return f"{offer.state} {offer.problem_code} {federation.carrier if federation else ''} {carriers}"

    @property
    def _offer(self) -> pb.SiloOffer | None:
        return self._context.store.offers.get(self.offer_id)

    def _load(self) -> None:
        offer = self._offer
        if offer is None:
            return
        self._loaded = self._mark(offer)
        if offer.state == "fetching":
            self._stack.setCurrentWidget(self._wait)
            return
        if self.reply is None:
            self._stack.setCurrentWidget(self._wait)
        wanted = self.offer_id
        self._context.client.call(
            "Approvals.Review",
            pb.ById(id=wanted),
            lambda reply: self._on_review(wanted, reply),
            lambda error: self._on_no_review(wanted, error),
            owner=self,
        )

    def _on_connected(self) -> None:
        if self.reply is None:  # the daemon was away when it was asked
            self._load()

    def _on_review(self, wanted: str, reply: pb.ReviewReply) -> None:
        if wanted != self.offer_id:
            return
        self.reply = reply
        self.summary.show_review(reply)
        self.code.show_review(reply)
        self.changes.show_review(reply)
        self.findings.show_review(reply)
        self.trial.show_review(reply)
        self.history.show_review(reply)
        for tab, name, count in (
            (self.changes, self.tr("Changes"), len(reply.changes)),
            (self.findings, self.tr("Findings"), len(reply.findings)),
        ):
            self.tabs.setTabText(self.tabs.indexOf(tab), f"{name} ({count})" if count else name)
        readers: tuple[QWidget, ...] = (self.code, self.changes, self.findings, self.trial)
        for reader in readers:  # nothing of a package that was not verified is shown
            self.tabs.setTabEnabled(self.tabs.indexOf(reader), bool(reply.files))
        self._stack.setCurrentWidget(self.tabs)
        self._show_header()

    def _on_no_review(self, wanted: str, error: UserError) -> None:
        if wanted != self.offer_id:
            return
        self.reply = None
        parts = [error.what, error.why, error.next_step, error.code]
        offer = self._offer
        if offer is not None and offer.state == "invalid" and offer.problem:
            parts = [
                offer.problem,
                "",
                self.tr("Ask the author to build, sign and submit the job again."),
                offer.problem_code,
            ]
        self._wrong_text.setText("\n".join(part for part in parts if part))
        self._stack.setCurrentWidget(self._wrong)
        self._show_header()

    def _on_place_opened(self, path: str, line: int) -> None:
        self.tabs.setCurrentWidget(self.code)
        self.code.open_place(path, line)

    # The head and the decision bar

    def _make_header(self) -> QFrame:
        theme = self._context.theme
        card = Card(spacing=GRID)
        card.body.setContentsMargins(16, 12, 16, 12)
        first = QHBoxLayout()
        first.setSpacing(12)
        self._title = ElidedLabel("", "heading")
        self._badge = StatusBadge(theme, "offer", "")
        first.addWidget(self._title, 1)
        first.addWidget(self._badge)
        card.body.addLayout(first)
        self._purpose = label("", "muted", wrap=True)
        card.body.addWidget(self._purpose)
        facts = QGridLayout()
        facts.setHorizontalSpacing(12)
        facts.setVerticalSpacing(4)
        self._author, self._federation = ElidedLabel(), ElidedLabel()
        self._signature = StatusBadge(theme, "signature", "unverified")
        self._fingerprint = IdLabel(theme, "", lambda value: value[:19] + "…" if len(value) > 20 else value)
        self._digest = IdLabel(theme, "", lambda value: value[:16] + "…")
        self._expires = TimeLabel()
        signed = QHBoxLayout()
        signed.setSpacing(GRID)
        for widget in (self._signature, self._fingerprint):
            signed.addWidget(widget)
        signed.addStretch(1)
        package = QHBoxLayout()
        package.addWidget(self._digest)
        package.addStretch(1)
        for row, (left, first_value, right, second_value) in enumerate(
            (
                (self.tr("Asked by"), self._author, self.tr("Signature"), signed),
                (self.tr("Federation"), self._federation, self.tr("Package"), package),
            )
        ):
            for place, name, value in ((0, left, first_value), (2, right, second_value)):
                facts.addWidget(label(name, "muted"), row, place)
                if isinstance(value, QWidget):
                    facts.addWidget(value, row, place + 1)
                else:
                    facts.addLayout(value, row, place + 1)
        facts.setColumnStretch(1, 1)
        facts.setColumnStretch(3, 1)
        card.body.addLayout(facts)
        card.body.addWidget(self._make_bar())
        return card

    def _make_bar(self) -> QWidget:
        theme = self._context.theme
        self.bar = QFrame()
        set_role(self.bar, look="banner", tone="warning")
        self.approve = button(theme, self.tr("Approve…"), self._on_approve, icon="check", kind="primary")
        self.reject = button(theme, self.tr("Reject…"), lambda: self._on_refuse("reject", "rejected"), kind="danger")
        self.ask = button(theme, self.tr("Ask for changes…"), lambda: self._on_refuse("changes", "changes_requested"))
        self.revoke = button(
            theme, self.tr("Revoke…"), lambda: self._on_refuse("revoke", "revoked"), icon="stop", kind="danger"
        )
        self.open_run = button(theme, self.tr("Open the run"), lambda: self._context.open("run", self.offer_id))
        self._text, self._detail = label("", "strong", wrap=True), label("", "caption", wrap=True)
        words = QVBoxLayout()
        words.setSpacing(0)
        words.addWidget(self._text)
        words.addWidget(self._detail)
        row = QHBoxLayout(self.bar)
        row.setContentsMargins(12, 8, 12, 8)
        row.setSpacing(GRID)
        row.addLayout(words, 1)
        for widget in (self.open_run, self.revoke, self.ask, self.reject, self.approve):
            row.addWidget(widget, 0, Qt.AlignmentFlag.AlignVCenter)
        return self.bar

    def _show_header(self) -> None:
        offer = self._offer
        self._header.setVisible(offer is not None)
        self._stack.setVisible(offer is not None)
        if offer is None:
            return
        said, run = offer.offer, self._context.store.runs.get(offer.id)
        self._title.set_text(f"{said.job_name} {said.job_version}")
        self._badge.set_state("offer", offer.state)
        self._purpose.setText(shortened(said.purpose) or self.tr("The author gives no purpose."))
        self._purpose.setToolTip(said.purpose)
        self._author.set_text(said.author)
        expires = self.tr("expires {0}").format(formats.until(said.expires_at)) if offer.state == "offered" else ""
        self._federation.set_text(" · ".join(part for part in (said.federation, expires) if part))
        self._signature.set_state("signature", "verified" if offer.signature_verified else "unverified")
        self._fingerprint.set_value(said.author_fingerprint)
        self._digest.set_value(said.package.digest)
        self.situation = now = situation(offer, run, time.time())
        set_role(self.bar, tone=now.tone)
        self._text.setText(self.tr("Being signed and sent…") if self._busy else now.text)
        self._detail.setText("" if self._busy else now.detail)
        self._detail.setVisible(bool(self._detail.text()))
        deciding = now.approve or now.refuse
        for widget, shown, on in (
            (self.approve, deciding or offer.state in ("fetching", "invalid"), now.approve and self.reply is not None),
            (self.reject, deciding, now.refuse),
            (self.ask, deciding, now.refuse),
            (self.revoke, now.revoke, now.revoke),
            (self.open_run, run is not None, True),
        ):
            widget.setVisible(shown)
            widget.setEnabled(on and not self._busy)

    # Decisions

    def _on_approve(self) -> None:
        if self.reply is None or not self.situation.approve:
            return
        store, offer = self._context.store, self.reply.offer
        dialog = ApproveDialog(
            self, self.reply, store.datasets, store.nodes, store.daemon.administrator, store.slurm_profiles
        )
        dialog.accepted.connect(
            lambda: self._decide(
                make_statement(
                    offer,
                    "approved",
                    store.daemon.administrator,
                    conditions=dialog.conditions,
                    data_scope=dialog.data_scope,
                )
            )
        )
        dialog.open()

    def _on_refuse(self, act: str, verdict: str) -> None:
        offer = self._offer
        if offer is None:
            return
        dialog = ReasonDialog(self, wording(act, f"{offer.offer.job_name} {offer.offer.job_version}"))
        who = self._context.store.daemon.administrator
        dialog.accepted.connect(lambda: self._decide(make_statement(offer, verdict, who, reason=dialog.reason)))
        dialog.open()

    def _decide(self, statement: Statement) -> None:
        self._set_busy(True)
        sign_with_prompt(
            self,
            self._context.home,
            statement,
            lambda decision: self._send(statement, decision),
            self._on_failed,
            lambda: self._set_busy(False),
        )

    def _send(self, statement: Statement, decision: Decision) -> None:
        self._context.client.call(
            "Approvals.Decide",
            pb.DecideRequest(id=statement.run_id, decision=decision),
            lambda offer: self._on_decided(statement.verdict, offer),
            self._on_failed,
            owner=self,
        )

    def _on_decided(self, verdict: str, offer: pb.SiloOffer) -> None:
        self._set_busy(False)
        words = {
            "approved": self.tr("{0} is approved. The federation is told."),
            "rejected": self.tr("{0} is rejected. The author gets your reason."),
            "changes_requested": self.tr("Your wishes for {0} are on their way to the author."),
        }.get(verdict, self.tr("The approval of {0} is revoked; its run stops."))
        self._context.toast("ok", words.format(offer.offer.job_name))

    def _on_failed(self, error: UserError) -> None:
        self._set_busy(False)
        self._context.show_error(error)

    def _set_busy(self, busy: bool) -> None:
        self._busy = busy
        self._show_header()
