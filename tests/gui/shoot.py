"""Pictures of every page in both themes, from sample data: ``python -m tests.gui.shoot OUT [page …]``. Run by hand."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtWidgets import QApplication, QDialog, QWidget

from octopus_desktop.gui.app import App
from octopus_desktop.gui.context import Context
from octopus_desktop.gui.pages import pages
from octopus_desktop.system.paths import silo_home
from octopus_desktop.wire.pb import local_pb2 as pb
from tests.gui.sample_daemon import SampleDaemon
from tests.gui.sample_data import make_review

SIZE = (1366, 768)


def settle(qt: QApplication, seconds: float = 0.5) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        qt.processEvents()
        time.sleep(0.01)


def run_of_silos(qt: QApplication, app: App, daemon: SampleDaemon, count: int) -> str:
    """Another run, of this silo and ``count`` - 1 others."""
    run = pb.Run()
    run.CopyFrom(daemon.snapshot.runs[0])
    run.id = f"run-of-{count}"
    del run.silos[:]
    run.silos.extend(["cleveland-clinic", *(f"hospital-{n:02d}" for n in range(1, count))])
    daemon.put("run", run)
    settle(qt, 0.2)
    return run.id


def feed(daemon: SampleDaemon) -> None:
    """Five minutes of load, as the daemon would tell it."""
    for number in range(150):
        node = pb.Node()
        node.CopyFrom(next(n for n in daemon.snapshot.nodes if n.local))
        node.seen_at = time.time() + 2 * number
        node.cpu_load = 0.35 + 0.2 * math.sin(number / 9)
        for gpu in node.gpus:
            gpu.utilisation = max(0.0, 0.9 - (0.8 if (number + 5 * gpu.index) % 30 > 22 else 0.0))
            gpu.power_w = 80 + 220 * gpu.utilisation
            gpu.temperature_c = 62 + 12 * gpu.utilisation
        daemon.push(node=node)
        if number % 30 == 0:
            run = pb.Run()
            run.CopyFrom(daemon.snapshot.runs[0])
            run.bytes_out += number << 14
            run.bytes_in += number << 15
            daemon.push(run=run)


def main() -> int:
    out, wanted = Path(sys.argv[1]), sys.argv[2:]
    out.mkdir(parents=True, exist_ok=True)
    qt = QApplication.instance() or QApplication([])
    for empty in (False, True):
        home = silo_home(tempfile.mkdtemp(prefix="shoot-"))
        daemon = SampleDaemon(home.socket, empty=empty).start()
        if empty:
            daemon.snapshot.daemon.configured = True
            daemon.snapshot.daemon.organisation = "Cleveland Clinic"
            daemon.snapshot.daemon.administrator = "Dr. Ruth Adler"
        app = App(qt, home, starts_daemon=False)
        app.window.resize(*SIZE)
        app.start()
        settle(qt, 1.0)
        for theme in ("light", "dark"):
            app.context.theme.choose(theme)
            for spec in pages():
                if wanted and spec.key not in wanted:
                    continue
                page = app.window.show_page(spec.key)
                settle(qt, 0.6)
                app.window.grab().save(str(out / f"{spec.key}{'-empty' if empty else ''}-{theme}.png"))
                if spec.key == "federations" and not empty:
                    page._detail._on_check()
                    settle(qt, 0.4)
                    app.window.grab().save(str(out / f"federations-check-{theme}.png"))
                    bar = page._detail_area.verticalScrollBar()
                    bar.setValue(bar.maximum())
                    settle(qt, 0.2)
                    app.window.grab().save(str(out / f"federations-carriers-{theme}.png"))
                if spec.key == "approvals" and not empty:
                    page.review.tabs.setCurrentWidget(page.review.trial)
                    page.review.trial.start.click()
                    settle(qt, 0.8)
                    app.window.grab().save(str(out / f"approvals-trial-{theme}.png"))
                    page.review.tabs.setCurrentIndex(0)
                if spec.key == "runs" and not empty:
                    page.show_item(next(r.id for r in daemon.snapshot.runs if r.state == "training"))
                    settle(qt, 0.8)
                    app.window.grab().save(str(out / f"run-{theme}.png"))
                    feed(daemon)
                    for place in range(1, page.detail.tabs.count()):
                        page.detail.tabs.setCurrentIndex(place)
                        settle(qt, 0.4)
                        name = page.detail.tabs.tabText(place).replace(" ", "-").lower()
                        app.window.grab().save(str(out / f"run-{name}-{theme}.png"))
                    for count in (1, 20):
                        page.show_item(run_of_silos(qt, app, daemon, count))
                        settle(qt, 0.8)
                        if count == 20:
                            page.detail.overview.silos.rows["hospital-07"].clicked.emit("hospital-07")
                            settle(qt, 0.2)
                        app.window.grab().save(str(out / f"run-{count}-silos-{theme}.png"))
                    page.show_list()
                    page.table.filter.setText("heart-risk 1.2.0")
                    settle(qt, 0.3)
                    page.table.view.selectAll()
                    page.show_compare()
                    settle(qt, 0.8)
                    app.window.grab().save(str(out / f"runs-compare-{theme}.png"))
                    page.show_list()
        if not wanted or "dialogs" in wanted:
            dialogs(qt, app, out, empty)
        app.close()
        app.window.deleteLater()
        app.deleteLater()
        settle(qt, 0.2)
        daemon.stop()
    return 0


def approval(context: Context, window: QWidget) -> QDialog:
    from octopus_desktop.gui.dialogs.approve import ApproveDialog

    review = make_review(context.store.waiting()[0], 0.0)
    store = context.store
    dialog = ApproveDialog(window, review, store.datasets, store.nodes, "Dr. Ruth Adler")
    dialog.resize(660, 900)
    return dialog


def dialogs(qt: QApplication, app: App, out: Path, empty: bool) -> None:
    from octopus_desktop.gui.dialogs.add_runtime import AddRuntime, LookAtBuiltIn
    from octopus_desktop.gui.dialogs.carrier import CarrierDialog
    from octopus_desktop.gui.dialogs.enrol import EnrolDialog
    from octopus_desktop.gui.dialogs.register_dataset import RegisterDataset
    from octopus_desktop.gui.pages.policy import AddRule
    from octopus_desktop.gui.palette import Palette
    from octopus_desktop.gui.wizards.first_run import STEPS, FirstRun

    window, context = app.window, app.context
    for theme in ("light", "dark"):
        context.theme.choose(theme)
        if empty:
            context.store.daemon.configured = False
            wizard = FirstRun(context, window)
            wizard.show()
            for step in STEPS:
                wizard._show(step)
                if step == "federation":
                    wizard.box.set_invitation("octopus://enrol/heart")
                settle(qt, 0.3)
                wizard.grab().save(str(out / f"wizard-{step}-{theme}.png"))
            wizard.close()
            continue
        window.show_page("overview")
        palette = Palette(context, window)
        palette.show()
        palette.field.setText("heart")
        settle(qt, 0.2)
        palette.grab().save(str(out / f"palette-{theme}.png"))
        palette.close()
        for name, dialog, prepare in (
            ("enrol", EnrolDialog(context, window, "octopus://enrol/heart"), lambda d: None),
            ("enrol-proxy", EnrolDialog(context, window, "octopus://enrol/heart"), lambda d: d.way.setCurrentIndex(1)),
            ("enrol-files", EnrolDialog(context, window, "octopus://enrol/heart"), lambda d: d.way.setCurrentIndex(2)),
            ("enrol-bad", EnrolDialog(context, window, "nonsense"), lambda d: None),
            ("runtime", AddRuntime(context, window), lambda d: d.path.setText("/srv/environments/echo")),
            ("runtime-bad", AddRuntime(context, window), lambda d: d.path.setText("/nowhere")),
            ("runtime-built-in", LookAtBuiltIn(context, window), lambda d: None),
            ("approve", approval(context, window), lambda d: None),
            ("register", RegisterDataset(context, window), lambda d: d.path.setText(__file__)),
            ("rule", AddRule(context, window), lambda d: None),
            *(
                (f"carrier-{name}", CarrierDialog(context, window, context.store.federations["fed-heart"], name), id)
                for name in ("grpc", "mqtt_s3", "torch_rpc", "mpi")
            ),
        ):
            dialog.show()
            prepare(dialog)
            settle(qt, 0.8)
            dialog.grab().save(str(out / f"dialog-{name}-{theme}.png"))
            dialog.close()
        context.toast("ok", "“heart” is registered")
        context.toast("danger", "Stroke Imaging Consortium of the Great Lakes Region is away: connection refused")
        settle(qt, 0.2)
        window.grab().save(str(out / f"toasts-{theme}.png"))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
