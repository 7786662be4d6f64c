"""The editor of this silo's side of one carrier: who we are at the broker, which proxy, what we consent to."""

from __future__ import annotations

import json
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QCheckBox, QFileDialog, QHBoxLayout, QLabel, QLineEdit, QWidget

from octopus_desktop.communication.settings import CONTROL
from octopus_desktop.gui.context import Context
from octopus_desktop.gui.dialogs.form import FormDialog
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets.carriers import carrier_name, may_be_unsealed, own_of, where
from octopus_desktop.gui.widgets.parts import Facts, button, label
from octopus_desktop.wire.pb import local_pb2 as pb

# carrier -> its fields, in their order
FIELDS = {
    "grpc": ("proxy", "username", "password", "ca_file"),
    "mqtt": ("username", "password", "proxy", "ca_file"),
    "mqtt_s3": ("username", "password", "store_key_id", "store_secret", "proxy", "ca_file"),
    "torch_rpc": ("interface",),
    "mpi": (),
}
SECRETS = ("password", "store_secret")


class CarrierDialog(FormDialog):
    """Attributes: ``fields`` (key -> line edit), ``accept_unsealed``, ``control``: the check boxes, None where there is
    none."""

    def __init__(self, context: Context, parent: QWidget, federation: pb.Federation, name: str) -> None:
        view = next((v for v in federation.carriers if v.name == name), pb.CarrierView(name=name))
        super().__init__(
            context.theme,
            parent,
            parent.tr("{0} of {1}").format(carrier_name(name), federation.name),
            parent.tr(
                "This silo's own side of the carrier. What the federation offers is the coordinator's to change."
            ),
            parent.tr("Save"),
        )
        self._context, self._federation, self._view = context, federation, view
        self._own = own_of(view)
        if where(view):
            facts = Facts(name_width=144)
            facts.set_facts([(self.tr("Goes through"), where(view))])
            self.body.insertWidget(0, facts)
        self.fields: dict[str, QLineEdit] = {}
        for key in FIELDS.get(name, ()):
            self._add(key)
        self.accept_unsealed: QCheckBox | None = None
        if may_be_unsealed(view):
            self._add_consent()
        self.control: QCheckBox | None = None
        if name in CONTROL:
            self.control = QCheckBox(self.tr("Control (offers, decisions, heartbeats) goes by this carrier"))
            self.control.setChecked(view.control)
            self.control.setEnabled(not view.control)
            if view.control:
                self.control.setToolTip(self.tr("To change that, choose another carrier for control."))
            self.body.addWidget(self.control)
        if not self.fields and self.accept_unsealed is None:
            self.body.addWidget(label(self.tr("This carrier needs nothing of this silo's own."), "muted", wrap=True))
            self.act.setEnabled(self.control is not None)

    def own_side(self) -> dict[str, Any]:
        """The own side as it stands in the form, without secrets."""
        typed = {key: field.text().strip() for key, field in self.fields.items() if key not in SECRETS}
        consent = {} if self.accept_unsealed is None else {"accept_unsealed": self.accept_unsealed.isChecked()}
        return self._own | typed | consent

    def _add(self, key: str) -> None:
        tr, grpc = self.tr, self._view.name == "grpc"
        texts = {
            "proxy": (tr("&Proxy"), "http://proxy.example.org:3128"),
            "username": (tr("&User at the proxy") if grpc else tr("&User at the broker"), ""),
            "password": (tr("Pass&word"), ""),
            "ca_file": (tr("&CA file"), tr("A CA of this site's own, where one is needed (PEM)")),
            "store_key_id": (tr("&Key at the store"), tr("Empty: the server signs each URL")),
            "store_secret": (tr("&Secret of the key"), ""),
            "interface": (tr("&Network interface"), tr("Empty: the one that leads there")),
        }
        field = QLineEdit(str(self._own.get(key, "") or "") if key not in SECRETS else "")
        name, hint = texts[key]
        if key in SECRETS:
            field.setEchoMode(QLineEdit.EchoMode.Password)
            store = self._context.store.daemon.secrets or tr("store of secrets")
            hint = tr("Kept in the {0}").format(store)
            if self._view.secret_kept:
                hint = tr("Kept in the {0}; leave empty to keep it").format(store)
        field.setPlaceholderText(hint)
        field.setAccessibleName(name.replace("&", ""))
        self.fields[key] = field
        if key != "ca_file":
            self.form.addRow(name, field)
            return
        row = QHBoxLayout()
        row.setSpacing(GRID)
        row.addWidget(field, 1)
        row.addWidget(button(self.theme, tr("Choose…"), self._on_pick, icon="folder"))
        caption = QLabel(name)
        caption.setBuddy(field)
        self.form.addRow(caption, row)

    def _add_consent(self) -> None:
        warning = label(
            self.tr(
                "The federation offers this carrier without sealing. With your consent, models and updates travel in "
                "the clear: whoever can listen in that network can read them, and with them what a model has learnt "
                "from your data. Envelopes stay signed, so nothing can be forged."
            ),
            wrap=True,
        )
        warning.setProperty("tone", "danger")
        self.body.addWidget(warning)
        self.accept_unsealed = QCheckBox(self.tr("This silo consents to blob bytes that travel unsealed"))
        self.accept_unsealed.setChecked(bool(self._own.get("accept_unsealed")))
        self.body.addWidget(self.accept_unsealed)

    def _on_pick(self) -> None:
        chooser = QFileDialog(self, self.tr("Choose a CA certificate"))
        chooser.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        chooser.setFileMode(QFileDialog.FileMode.ExistingFile)
        chooser.fileSelected.connect(self.fields["ca_file"].setText)
        chooser.open()

    def _on_act(self) -> None:
        self.problem.tell(None)
        self.set_busy(self.tr("Saving…"))
        secrets = {key: field.text().encode() for key, field in self.fields.items() if key in SECRETS}
        request = pb.ConfigureCarrierRequest(
            id=self._federation.id,
            name=self._view.name,
            own_json=json.dumps(self.own_side()),
            secret=secrets.get("password", b""),
            store_secret=secrets.get("store_secret", b""),
            control=self.control is not None and self.control.isChecked() and not self._view.control,
        )
        self._context.client.call("Federations.ConfigureCarrier", request, self._on_saved, self.tell, owner=self)

    def _on_saved(self, _after: pb.Federation) -> None:
        name = carrier_name(self._view.name)
        self._context.toast("ok", self.tr("{0} of {1} is set up").format(name, self._federation.name))
        self.accept()
