"""Settings of the window, and where this silo keeps what."""

from __future__ import annotations

from PySide6.QtWidgets import QButtonGroup, QCheckBox, QHBoxLayout, QRadioButton, QVBoxLayout, QWidget

from octopus_desktop import __version__
from octopus_desktop.gui.context import Context
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import Card, Facts, IdLabel, PageHeader, button, label, page_layout, scroll
from octopus_desktop.system.paths import silo_home

WIDEST_PX = 760


class SettingsPage(QWidget):
    icon = "settings"

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.title = self.tr("Settings")
        tr = self.tr
        column = page_layout(self)
        column.addWidget(PageHeader(self.title, tr("How this window looks, and where this silo keeps what")))
        body = QWidget()
        cards = QVBoxLayout(body)
        cards.setContentsMargins(0, 0, 0, 0)
        cards.setSpacing(2 * GRID)
        for card in (self._appearance(), self._notifications(), self._approvers(), self._silo()):
            card.setMaximumWidth(WIDEST_PX)
            cards.addWidget(card)
        cards.addStretch(1)
        column.addWidget(scroll(body), 1)
        store = context.store
        store.reset.connect(self._refresh)
        store.changed.connect(lambda kind, _id: self._refresh() if kind == "daemon" else None)
        context.client.connected.connect(self._refresh)
        self._refresh()

    def _appearance(self) -> Card:
        tr, theme = self.tr, self._context.theme
        card = Card(tr("Appearance"))
        row = QHBoxLayout()
        row.setSpacing(3 * GRID)
        self._group = QButtonGroup(self)
        for text, choice in ((tr("As the system"), "system"), (tr("Light"), "light"), (tr("Dark"), "dark")):
            option = QRadioButton(text)
            option.setChecked(theme.choice == choice)
            option.toggled.connect(lambda on, c=choice: self._choose(c) if on else None)
            self._group.addButton(option)
            row.addWidget(option)
        row.addStretch(1)
        card.body.addLayout(row)
        return card

    def _notifications(self) -> Card:
        tr, settings = self.tr, self._context.settings
        card = Card(tr("Notifications"))
        for name, text in (
            ("notifications", tr("Tell me on the desktop when a job asks for a decision, or something goes wrong")),
            ("close_to_tray", tr("Keep the icon in the tray when the window is closed, where the desktop has a tray")),
        ):
            box = QCheckBox(text)
            box.setChecked(settings.get(name))
            box.toggled.connect(lambda on, key=name: settings.put(key, on))
            card.body.addWidget(box)
        return card

    def _approvers(self) -> Card:
        card = Card(self.tr("Who may approve here"))
        card.body.addWidget(
            label(self.tr("What counts is the signature by one of these keys, not who can open this window."), "muted")
        )
        self._keys = Facts(name_width=176)
        card.body.addWidget(self._keys)
        return card

    def _silo(self) -> Card:
        card = Card(self.tr("This silo"))
        self._facts = Facts(name_width=176)
        card.body.addWidget(self._facts)
        row = QHBoxLayout()
        row.addWidget(button(self._context.theme, self.tr("About…"), lambda: self._context.commands.run("about")))
        row.addStretch(1)
        card.body.addLayout(row)
        return card

    def _choose(self, choice: str) -> None:
        self._context.settings.put("appearance", choice)
        self._context.theme.choose(choice)

    def _refresh(self) -> None:
        tr, daemon, client = self.tr, self._context.store.daemon, self._context.client
        secrets = {
            "keyring": tr("the keyring of the operating system"),
            "systemd credential": tr("a systemd credential"),
            "passphrase file": tr("a file sealed by a passphrase"),
        }
        self._facts.set_facts(
            [
                (tr("Organisation"), daemon.organisation),
                (tr("Administrator"), daemon.administrator),
                (
                    tr("Secrets are in"),
                    secrets.get(daemon.secrets, daemon.secrets.replace("locked", tr("a file that is locked"), 1)),
                ),
                (tr("Home"), str(self._context.home)),
                (tr("Local API"), str(silo_home(self._context.home).socket)),
                (
                    tr("Daemon"),
                    tr("{0}, since {1}").format(client.version or formats.DASH, formats.instant(daemon.started_at)),
                ),
                (tr("Window"), __version__),
            ]
        )
        self._keys.set_facts(
            [
                (
                    approver.name if approver.kind != "policy" else tr("Policy (by your rules)"),
                    IdLabel(self._context.theme, approver.fingerprint, lambda value: value),
                )
                for approver in daemon.approvers
            ]
            or [(tr("Nobody yet"), tr("The first approver is made when this silo is set up."))]
        )
