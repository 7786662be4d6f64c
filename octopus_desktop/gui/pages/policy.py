"""Policy: what we accept without asking. Standing rules, each signed by the administrator."""

from __future__ import annotations

import json
from typing import Any

from PySide6.QtWidgets import QComboBox, QDoubleSpinBox, QLineEdit, QSpinBox, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.dialogs.form import FormDialog, confirm
from octopus_desktop.gui.dialogs.keys import use_key
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import Banner, EmptyState, PageHeader, button, page_layout
from octopus_desktop.gui.widgets.status import look
from octopus_desktop.gui.widgets.table import Column, Table
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb


class PolicyPage(QWidget):
    icon = "policy"

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.title = self.tr("Policy")
        tr, theme = self.tr, context.theme
        column = page_layout(self)
        header = PageHeader(
            self.title, tr("What is accepted without asking. Whatever no rule covers waits for your decision.")
        )
        self._add = button(theme, tr("Add a rule…"), self.add, icon="plus", kind="primary")
        header.buttons.addWidget(self._add)
        column.addWidget(header)
        self.banner = Banner(theme)
        column.addWidget(self.banner)
        self.table = Table(
            theme,
            context.settings,
            "policies",
            [
                Column(key="name", title=tr("RULE"), text=lambda p: p.name, width=240),
                Column(
                    key="state",
                    title=tr("STATE"),
                    text=lambda p: look("policy", "on" if p.enabled else "off").text,
                    look=lambda p: look("policy", "on" if p.enabled else "off"),
                    width=90,
                ),
                Column(key="words", title=tr("WHAT IT SAYS"), text=rule_words, tooltip=rule_words, width=0, muted=True),
                Column(key="by", title=tr("SIGNED BY"), text=lambda p: p.created_by, width=160),
                Column(
                    key="at",
                    title=tr("SINCE"),
                    text=lambda p: formats.instant(p.created_at),
                    sort=lambda p: p.created_at,
                    tooltip=lambda p: formats.instant_utc(p.created_at),
                    width=160,
                    muted=True,
                ),
            ],
            lambda p: p.id,
            empty=EmptyState(
                theme,
                "policy",
                tr("There is no rule: every job waits for you"),
                tr("A rule lets jobs run without asking, when they stay within what it says: "
                    "which job, which federation, how "
                   "many rounds. You sign it with your own key, as you would sign each approval."),
                tr("Add a rule…"),
                self.add,
            ),
            placeholder=tr("Filter rules"),
        )  # fmt: skip
        self._switch = button(theme, tr("Turn off"), self._on_switch, icon="power")
        self._remove = button(theme, tr("Remove…"), self._on_remove, icon="trash", kind="danger")
        for tool in (self._switch, self._remove):
            self.table.tools.addWidget(tool)
        column.addWidget(self.table, 1)
        self.table.chosen.connect(lambda _id: self._update())
        store = context.store
        store.reset.connect(self._on_reset)
        store.changed.connect(lambda kind, _id: self._on_reset() if kind == "policy" else None)
        store.removed.connect(lambda kind, _id: self._on_reset() if kind == "policy" else None)
        self._on_reset()

    def show_item(self, item_id: str) -> None:
        self.table.choose(item_id)

    def add(self) -> None:
        """Ask for a simple rule that approves, sign it, and put it in force."""
        AddRule(self._context, self).open()

    def _on_switch(self) -> None:
        policy = self.table.current()
        if policy is not None:
            changed = pb.Policy()
            changed.CopyFrom(policy)
            changed.enabled = not policy.enabled
            put_rule(self._context, self, changed, lambda _p: None, self._context.show_error)

    def _on_remove(self) -> None:
        policy = self.table.current()
        if policy is None:
            return
        text = self.tr("Jobs that “{0}” lets through wait for you from now on. Runs under way go on.").format(
            policy.name
        )
        dialog = confirm(self._context.theme, self, self.tr("Remove the rule?"), text, self.tr("Remove"))
        dialog.accepted.connect(
            lambda: self._context.client.call(
                "Policies.Remove", pb.ById(id=policy.id), failed=self._context.show_error, owner=self
            )
        )
        dialog.open()

    def _on_reset(self) -> None:
        policies = list(self._context.store.policies.values())
        chosen = self.table.current_id()
        self.table.set_rows(policies)
        if policies and not self.table.choose(chosen):
            self.table.choose(self.table.model.id_at(0))
        self._add.setVisible(bool(policies))
        self._update()

    def _update(self) -> None:
        policy = self.table.current()
        for tool in (self._switch, self._remove):
            tool.setEnabled(policy is not None)
        self._switch.setText(self.tr("Turn on") if policy is not None and not policy.enabled else self.tr("Turn off"))


class AddRule(FormDialog):
    """A rule that approves: name, job pattern, federation, rounds, hours."""

    def __init__(self, context: Context, parent: QWidget) -> None:
        super().__init__(
            context.theme,
            parent,
            parent.tr("Add a rule"),
            parent.tr("Jobs that fit all of this run without asking you. You sign the rule with your key."),
            parent.tr("Sign and add"),
        )
        self._context = context
        self.name = QLineEdit()
        self.name.setPlaceholderText(self.tr("How you will recognise it"))
        self.job = QLineEdit()
        self.job.setPlaceholderText(self.tr("A job's name; * stands for anything, as in heart*"))
        self.federation = QComboBox()
        self.federation.addItem(self.tr("Any federation"), "")
        for federation in context.store.federations.values():
            self.federation.addItem(federation.name, federation.id)
        self.rounds = QSpinBox()
        self.rounds.setRange(0, 1_000_000)
        self.rounds.setValue(50)
        self.rounds.setSpecialValueText(self.tr("no limit"))
        self.hours = QDoubleSpinBox()
        self.hours.setRange(0, 10_000)
        self.hours.setDecimals(1)
        self.hours.setSpecialValueText(self.tr("no limit"))
        for text, field in (
            (self.tr("&Name"), self.name),
            (self.tr("&Job"), self.job),
            (self.tr("&Federation"), self.federation),
            (self.tr("At most &rounds"), self.rounds),
            (self.tr("At most &hours"), self.hours),
        ):
            self.form.addRow(text, field)
        for line in (self.name, self.job):
            line.textChanged.connect(lambda _text: self._update())
        self._update()

    def rule(self) -> dict[str, Any]:
        """The rule as ``jobs.policy.Rule.from_dict`` takes it; what has no limit is left out."""
        found: dict[str, Any] = {"effect": "approve", "job": self.job.text().strip()}
        if self.federation.currentData():
            found["federation"] = self.federation.currentText()
        if self.rounds.value():
            found["max_rounds"] = self.rounds.value()
        if self.hours.value():
            found["max_hours"] = self.hours.value()
        return found

    def _update(self) -> None:
        self.act.setEnabled(bool(self.name.text().strip() and self.job.text().strip()))

    def _on_act(self) -> None:
        self.problem.tell(None)
        self.set_busy(self.tr("Signing…"))
        policy = pb.Policy(name=self.name.text().strip(), enabled=True, rule_json=json.dumps(self.rule()))
        put_rule(self._context, self, policy, lambda _policy: self.accept(), self.tell)


def put_rule(
    context: Context,
    parent: QWidget,
    policy: pb.Policy,
    then: Any,
    failed: Any,
) -> None:
    """Sign a rule in its canonical form with the administrator's key and hand it to the daemon."""
    from octopus_desktop.jobs.policy import Rule

    try:
        canonical = Rule.from_dict(json.loads(policy.rule_json)).to_json()
    except UserError as error:
        failed(error)
        return
    who = context.store.daemon.administrator

    def signed(pair: tuple[bytes, bytes]) -> None:
        policy.rule_json, policy.created_by, policy.statement = canonical, who, canonical.encode()
        policy.signature, policy.approver_key = pair
        context.client.call("Policies.Put", pb.PutPolicyRequest(policy=policy), then, failed, owner=parent)

    use_key(parent, context.home, who, lambda key: (key.sign(canonical.encode()), key.public), signed, failed)


def rule_words(policy: pb.Policy) -> str:
    """A rule in words as far as they are known, and as it stands beyond."""
    try:
        rule = json.loads(policy.rule_json or "{}")
    except ValueError:
        return policy.rule_json
    parts = [
        f"{name.replace('_', ' ')} {value}" for name, value in rule.items() if value not in ("", 0, 0.0, [], {}, None)
    ]
    return ", ".join(parts)
