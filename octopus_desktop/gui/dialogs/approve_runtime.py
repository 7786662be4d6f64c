"""Part of an approval: in which Python environment the job trains, with what each lacks for it. Knows no other part."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtGui import QStandardItemModel
from PySide6.QtWidgets import QComboBox, QLabel, QVBoxLayout, QWidget

from octopus_desktop.gui.theme import GRID, set_role
from octopus_desktop.wire.pb import local_pb2 as pb


class RuntimeChoice(QWidget):
    """Attributes: ``choice``: the environments; one that lacks something cannot be chosen."""

    def __init__(self, review: pb.ReviewReply, changed: Callable[[], None], hint: QLabel) -> None:
        super().__init__()
        self._review, self._hint = review, hint
        self.choice = QComboBox()
        self.choice.setAccessibleName(self.tr("Python environment"))
        self.choice.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.choice.setMinimumContentsLength(24)
        for match in review.runtimes:
            name = self.tr("built-in") if not match.runtime_id else match.name
            why = match.fault or self.tr("lacks {0}").format("; ".join(match.lacks))
            self.choice.addItem(name if match.fits else f"{name} – {why}", match.runtime_id)
            if not match.fits:
                model = self.choice.model()
                assert isinstance(model, QStandardItemModel)
                model.item(self.choice.count() - 1).setEnabled(False)
        fitting = [at for at, match in enumerate(review.runtimes) if match.fits]
        if not fitting:
            self.choice.insertItem(0, self.tr("No environment has what the job needs"), "")
        self.choice.setCurrentIndex(fitting[0] if fitting else 0)
        self.choice.currentIndexChanged.connect(lambda _at: changed())
        set_role(hint, type="caption")
        hint.setText(self._words(bool(fitting)))
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(GRID // 2)
        column.addWidget(self.choice)
        column.addWidget(hint)

    @property
    def runtime(self) -> str:
        """The chosen environment's id, "" for the built-in one."""
        return str(self.choice.currentData() or "")

    @property
    def problem(self) -> str:
        if any(match.fits for match in self._review.runtimes) or not self._review.runtimes:
            return ""
        return self.tr("No Python environment here has what the job needs.")

    def _words(self, fits: bool) -> str:
        needs = ", ".join(self._review.requirements)
        if not needs:
            return self.tr("The job needs nothing beside PyTorch.")
        said = [self.tr("The job needs {0}.").format(needs)]
        for match in self._review.runtimes:
            name = self.tr("built-in") if not match.runtime_id else match.name
            if match.fault:
                said.append(self.tr("{0} cannot be used now.").format(name))
            elif match.lacks:
                said.append(self.tr("{0} lacks {1}.").format(name, "; ".join(match.lacks)))
        if not fits:
            said.append(self.tr("Add an environment that has it on the page Runtimes, then come back."))
        return " ".join(said)
