"""Starts the demo federation as the command line does, and a window on its first silo. Knows nothing of its inside."""

from __future__ import annotations

import json
import sys

from PySide6.QtCore import QObject, QProcess, QProcessEnvironment, Signal

from octopus_desktop.wire.errors import UserError

DEMO = ("-m", "octopus_desktop.cli.main", "demo", "--from-window")


class DemoStarter(QObject):
    """Signals: ``said(str)`` for each line of progress; ``ready(str)`` with the first silo's home, whose window is
    started then; ``failed(UserError)``."""

    said = Signal(str)
    ready = Signal(str)
    failed = Signal(object)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._process: QProcess | None = None
        self._answer: dict[str, str] = {}
        self._errors = ""

    def start(self) -> None:
        process = QProcess(self)
        process.setProgram(sys.executable)
        process.setArguments(list(DEMO))
        process.readyReadStandardOutput.connect(self._on_output)
        process.readyReadStandardError.connect(self._on_errors)
        process.finished.connect(self._on_finished)
        process.errorOccurred.connect(self._on_no_start)
        self._process, self._answer, self._errors = process, {}, ""
        process.start()

    def stop(self) -> None:
        """End what only prepares; servers and daemons that it started already live on by themselves."""
        if self._process is not None and self._process.state() != QProcess.ProcessState.NotRunning:
            self._process.finished.disconnect()
            self._process.kill()
            self._process.waitForFinished(2000)

    def _on_output(self) -> None:
        if self._process is None:
            return
        for raw in bytes(self._process.readAllStandardOutput().data()).decode(errors="replace").splitlines():
            line = raw.strip()
            if line.startswith("{"):
                try:
                    self._answer = json.loads(line)
                except ValueError:
                    continue
            elif line:
                self.said.emit(line)

    def _on_errors(self) -> None:
        if self._process is not None:
            self._errors += bytes(self._process.readAllStandardError().data()).decode(errors="replace")

    def _on_no_start(self, error: QProcess.ProcessError) -> None:
        if error == QProcess.ProcessError.FailedToStart:
            self._fail()

    def _on_finished(self, code: int, _status: QProcess.ExitStatus) -> None:
        self._on_output()
        self._on_errors()
        if code == 0 and self._answer.get("home"):
            self._open_window()
            self.ready.emit(self._answer["home"])
        else:
            self._fail()

    def _open_window(self) -> None:
        window = QProcess()
        window.setProgram(sys.executable)
        window.setArguments(["-m", "octopus_desktop.gui.app", "--home", self._answer["home"]])
        if self._answer.get("passphrase_file"):
            environment = QProcessEnvironment.systemEnvironment()
            environment.insert("OCTOPUS_PASSPHRASE_FILE", self._answer["passphrase_file"])
            window.setProcessEnvironment(environment)
        window.startDetached()

    def _fail(self) -> None:
        lines = [line for line in self._errors.strip().splitlines() if line.strip()]
        self.failed.emit(
            UserError(
                "OCT-DAEMON-AWAY",
                self.tr("The demo could not be started."),
                "\n".join(lines[-3:]),
                self.tr("Run “octopus demo” in a terminal to see more."),
            )
        )
