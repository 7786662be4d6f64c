"""The codes with which further machines may still join, and withdrawing one. The code itself is never shown again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtWidgets import QGridLayout

from octopus_desktop.gui.theme import GRID, Theme
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import Card, ElidedLabel, button, clear, label
from octopus_desktop.wire.pb import local_pb2 as pb


class NodeCodesCard(Card):
    """Hidden while there is no code. Attributes: ``codes``: those shown."""

    def __init__(self, theme: Theme, withdraw: Callable[[pb.NodeCode], None]) -> None:
        super().__init__(self.tr("Open codes"))
        self._theme, self._withdraw = theme, withdraw
        self.codes: list[pb.NodeCode] = []
        words = self.tr("Whoever has one of these can ask to join. Withdraw those that nobody should use any more.")
        self.body.addWidget(label(words, "caption", wrap=True))
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(2 * GRID)
        self._grid.setVerticalSpacing(GRID // 2)
        self._grid.setColumnStretch(0, 2)
        self._grid.setColumnStretch(1, 3)
        self.body.addLayout(self._grid)
        self.hide()

    def set_codes(self, codes: Sequence[pb.NodeCode]) -> None:
        self.codes = list(codes)
        clear(self._grid)
        for row, code in enumerate(self.codes):
            self._grid.addWidget(ElidedLabel(self.tr("for {0}").format(code.name), "strong"), row, 0)
            told = self.tr("given {0}, ends {1}").format(formats.age(code.made_at), formats.until(code.expires_at))
            words = label(told, "muted")
            words.setToolTip(formats.instant(code.expires_at))
            self._grid.addWidget(words, row, 1)
            act = button(self._theme, self.tr("Withdraw…"), lambda one=code: self._withdraw(one))
            act.setAccessibleName(self.tr("Withdraw the code for {0}").format(code.name))
            self._grid.addWidget(act, row, 2)
        self.setVisible(bool(self.codes))
