"""Three tabs of a review: Summary (plain sentences with the policy's verdict), Findings (advice), History."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QCoreApplication, Qt, Signal
from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.dialogs.carrier import CarrierDialog
from octopus_desktop.gui.models.rows import Column
from octopus_desktop.gui.pages.approvals_words import shortened, topic, what_happened
from octopus_desktop.gui.theme import GRID, set_role
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.carriers import carrier_name, protection, travels_by
from octopus_desktop.gui.widgets.parts import Card, EmptyState, button, clear, label, rule, scroll
from octopus_desktop.gui.widgets.status import Look, StatusBadge, look
from octopus_desktop.gui.widgets.table import Table
from octopus_desktop.wire.pb import local_pb2 as pb


class SummaryTab(QWidget):
    """What the job wants, one line a topic, with what the policy says of it."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._verdicts = label("", "muted", wrap=True)
        self._card = Card(margin=0, spacing=0)
        content = QWidget()
        column = QVBoxLayout(content)
        column.setContentsMargins(0, GRID, GRID, GRID)
        column.setSpacing(12)
        column.addWidget(self._verdicts)
        column.addWidget(self._card)
        column.addStretch(1)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(scroll(content))

    def show_review(self, reply: pb.ReviewReply) -> None:
        lines = list(reply.summary)
        counts = {
            verdict: sum(line.verdict == verdict for line in lines)
            for verdict in ("allowed", "ask", "forbidden", "cannot")
        }
        parts = [
            self.tr("{0} allowed").format(counts["allowed"]),
            self.tr("{0} need your decision").format(counts["ask"]),
        ]
        if counts["forbidden"]:
            parts.append(self.tr("{0} forbidden").format(counts["forbidden"]))
        said = self.tr("Your standing policy says: {0}.").format(", ".join(parts))
        if counts["cannot"]:
            said += " " + self.tr("{0} is not possible here as this silo is set up.").format(counts["cannot"])
        self._verdicts.setText(said)
        clear(self._card.body)
        self._verdicts.setVisible(bool(lines))
        if not lines:
            words = label(_nothing_shown(reply.offer), "muted", wrap=True)
            words.setContentsMargins(16, 16, 16, 16)
            self._card.body.addWidget(words)
        purpose = reply.offer.offer.purpose
        if lines and shortened(purpose) != purpose:  # the head shows its beginning only
            lines.insert(0, pb.SummaryLine(topic="purpose", text=purpose))
        for number, line in enumerate(lines):
            if number:
                self._card.body.addWidget(rule())
            beside = self._carrier(reply.offer, line) if line.topic == "carrier" else []
            self._card.body.addWidget(self._row(line, beside))

    def _carrier(self, offer: pb.SiloOffer, line: pb.SummaryLine) -> list[QWidget]:
        """What the carrier's line says beyond the daemon's words: how it is protected, and why it cannot be used."""
        federation = self._context.store.federations.get(offer.federation_id)
        name, view, problem = travels_by(federation, offer.offer.config_json)
        beside: list[QWidget] = []
        tone, words = protection(view) if view is not None else ("", "")
        if words:
            said = label(words, "strong" if tone else "caption", wrap=True)
            if tone:
                said.setProperty("tone", tone)
            beside.append(said)
        if problem and line.verdict != "cannot":  # else the daemon's own words say it
            why = label(self.tr("This silo cannot use it now: {0}").format(problem), "strong", wrap=True)
            why.setProperty("tone", "danger")
            beside.append(why)
        if (problem or line.verdict == "cannot") and view is not None and federation is not None:

            def set_up() -> None:
                CarrierDialog(self._context, self, federation, name).open()

            act = button(self._context.theme, self.tr("Set up {0}…").format(carrier_name(name)), set_up, icon="edit")
            act.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
            beside.append(act)
        return beside

    def _row(self, line: pb.SummaryLine, beside: Sequence[QWidget] = ()) -> QWidget:
        row = QWidget()
        grid = QGridLayout(row)
        grid.setContentsMargins(16, 10, 16, 10)
        grid.setHorizontalSpacing(16)
        grid.setVerticalSpacing(2)
        name = label(topic(line.topic), "strong")
        name.setFixedWidth(96)
        top = Qt.AlignmentFlag.AlignTop
        grid.addWidget(name, 0, 0, top)
        grid.addWidget(label(line.text, wrap=True, selectable=True), 0, 1, top)
        if line.why:
            why = label(line.why, "strong" if line.verdict == "cannot" else "caption", wrap=True)
            if line.verdict == "cannot":
                why.setProperty("tone", "danger")
            grid.addWidget(why, 1, 1, top)
        for number, widget in enumerate(beside):
            grid.addWidget(widget, 2 + number, 1, top)
        if line.verdict:
            badge = StatusBadge(self._context.theme, "verdict", line.verdict)
            grid.addWidget(badge, 0, 2, 2, 1, top | Qt.AlignmentFlag.AlignRight)
        grid.setColumnStretch(1, 1)
        return row


def _nothing_shown(offer: pb.SiloOffer) -> str:
    if offer.state != "invalid":
        return QCoreApplication.translate("approvals", "The daemon gave no summary of this job.")
    return QCoreApplication.translate(
        "approvals",
        "Nothing of this package is shown, because it did not pass the checks: {0} ({1})\n\n"
        "Ask the author to build, sign and submit the job again; the coordinator can then offer it anew.",
    ).format(offer.problem, offer.problem_code)


class FindingsTab(QWidget):
    """What a static look at the code noticed.

    Signals:
        place_opened(str, int): a finding's path and 1-based line.
    """

    place_opened = Signal(str, int)

    def __init__(self, context: Context) -> None:
        super().__init__()
        notice = QFrame()
        set_role(notice, look="banner", tone="info")
        row = QHBoxLayout(notice)
        row.setContentsMargins(12, 8, 12, 8)
        row.addWidget(
            label(
                self.tr(
                    "This is advice. It comes from reading the code without running it: it can miss things, and it "
                    "decides nothing. Enter or a double click opens the line."
                ),
                wrap=True,
            )
        )
        order = {"high": 0, "danger": 0, "warning": 1, "medium": 1, "low": 2, "info": 3}
        self.table = Table(
            context.theme,
            context.settings,
            "findings",
            [
                Column(
                    key="severity",
                    title=self.tr("Weight"),
                    text=lambda r: finding_look(r[1].severity).text,
                    sort=lambda r: order.get(r[1].severity, 4),
                    look=lambda r: finding_look(r[1].severity),
                    width=110,
                ),
                Column(
                    key="place",
                    title=self.tr("Where"),
                    text=lambda r: f"{r[1].path}:{r[1].line}" if r[1].line else r[1].path,
                    monospace=True,
                    elide_middle=True,
                    width=190,
                ),
                Column(
                    key="text",
                    title=self.tr("What"),
                    text=lambda r: r[1].text,
                    tooltip=lambda r: f"{r[1].text}\n{r[1].advice}",
                    width=260,
                ),
                Column(
                    key="advice",
                    title=self.tr("Advice"),
                    text=lambda r: r[1].advice,
                    tooltip=lambda r: r[1].advice,
                    muted=True,
                    width=0,
                ),
            ],
            lambda r: r[0],
            empty=EmptyState(
                context.theme,
                "check-circle",
                self.tr("Nothing was noticed"),
                self.tr("A static look found no network access, no other programs, no eval, and no native code."),
            ),
            sort_by="severity",
        )
        self.table.opened.connect(self._on_opened)
        self._notice = notice
        column = QVBoxLayout(self)
        column.setContentsMargins(0, GRID, 0, 0)
        column.setSpacing(GRID)
        column.addWidget(notice)
        column.addWidget(self.table, 1)

    def show_review(self, reply: pb.ReviewReply) -> None:
        self.table.set_rows([(str(number), finding) for number, finding in enumerate(reply.findings)])

    def _on_opened(self, row_id: str) -> None:
        row = self.table.model.get(row_id)
        if row is not None and row[1].path:
            self.place_opened.emit(row[1].path, row[1].line)


def finding_look(severity: str) -> Look:
    return look("finding", {"medium": "warning", "error": "high", "low": "info"}.get(severity, severity))


class HistoryTab(QWidget):
    """Earlier versions, decisions and notes, newest first."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.table = Table(
            context.theme,
            context.settings,
            "history",
            [
                Column(
                    key="at",
                    title=self.tr("When"),
                    text=lambda r: formats.instant(r[1].at),
                    sort=lambda r: r[1].at,
                    tooltip=lambda r: formats.instant_utc(r[1].at),
                    width=160,
                ),
                Column(key="who", title=self.tr("Who"), text=lambda r: r[1].who, width=160),
                Column(key="what", title=self.tr("What"), text=lambda r: what_happened(r[1].what), width=130),
                Column(
                    key="text", title=self.tr("Words"), text=lambda r: r[1].text, tooltip=lambda r: r[1].text, width=0
                ),
                Column(
                    key="digest",
                    title=self.tr("Package"),
                    text=lambda r: r[1].digest[:12],
                    copy=lambda r: r[1].digest,
                    monospace=True,
                    width=130,
                ),
            ],
            lambda r: r[0],
            empty=EmptyState(
                context.theme,
                "clock",
                self.tr("No history yet"),
                self.tr("This is the first version of this job that was offered here."),
            ),
            sort_by="at",
            descending=True,
        )
        column = QVBoxLayout(self)
        column.setContentsMargins(0, GRID, 0, 0)
        column.addWidget(self.table)

    def show_review(self, reply: pb.ReviewReply) -> None:
        self.table.set_rows([(str(number), entry) for number, entry in enumerate(reply.history)])
