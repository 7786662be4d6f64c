"""What waiting and starting cost: ``python -m tests.benchmarks.small``. Each number stands beside a baseline.

All are taken in one run:


- ``octopus --help`` beside a bare ``python -c pass``;
- the window's first paint beside a bare QWidget's;
- an enrolled, idle daemon for 60 s: CPU share and resident memory, beside a bare idle Python with grpc imported.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

BARE_WINDOW = """
import sys, time
from PySide6.QtWidgets import QApplication, QWidget
class Bare(QWidget):
    def paintEvent(self, event):
        super().paintEvent(event); print(flush=True); QApplication.instance().quit()
app = QApplication(sys.argv); window = Bare(); window.resize(1366, 768); window.show(); sys.exit(app.exec())
"""


def seconds(command: list[str], runs: int, env: dict[str, str] | None = None) -> float:
    """Median wall seconds of a whole process, after one run that is not counted."""
    taken = []
    for count in range(runs + 1):
        began = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, check=True)
        if count:
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def idle(pid: int, span_s: float) -> tuple[float, float]:
    """CPU share in percent over the span, and resident MiB at its end."""
    process = psutil.Process(pid)
    before = sum(process.cpu_times()[:2])
    time.sleep(span_s)
    used = sum(process.cpu_times()[:2]) - before
    return 100 * used / span_s, process.memory_info().rss / (1 << 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--idle-s", type=float, default=60)
    words = parser.parse_args()
    from octopus_desktop.cli.common import table
    from tests.e2e.house import daemon_process, make_federation, running

    offscreen = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    rows: list[tuple[str, str, str]] = []
    base = seconds([sys.executable, "-c", "pass"], words.runs)
    ours = seconds([sys.executable, "-m", "octopus_desktop.cli.main", "--help"], words.runs)
    rows.append(("octopus --help, s", f"{ours:.3f}", f"bare python {base:.3f}"))
    with tempfile.TemporaryDirectory() as folder, running(make_federation(Path(folder), ("cleveland",))) as house:
        home = str(house.silos[0].home.root)
        base = seconds([sys.executable, "-c", BARE_WINDOW], words.runs, offscreen)
        paint = [sys.executable, "-m", "octopus_desktop.gui.app", "--home", home, "--quit-after-first-paint"]
        ours = seconds(paint, words.runs, {**house.silos[0].environment, "QT_QPA_PLATFORM": "offscreen"})
        rows.append(("window to first paint, s (whole process)", f"{ours:.2f}", f"bare widget {base:.2f}"))
        bare = subprocess.Popen([sys.executable, "-c", "import grpc.aio, asyncio; asyncio.run(asyncio.sleep(9e9))"])
        try:
            time.sleep(5)  # both have long finished starting: the span below measures waiting alone
            cpu, rss = idle(daemon_process(house).pid, words.idle_s)
            bare_rss = psutil.Process(bare.pid).memory_info().rss / (1 << 20)
        finally:
            bare.kill()
        rows.append((f"idle daemon over {words.idle_s:.0f} s, % CPU", f"{cpu:.3f}", "bare idle grpc 0"))
        rows.append(("idle daemon, MiB resident", f"{rss:.0f}", f"bare idle grpc {bare_rss:.0f}"))
    table("Waiting and starting", ["what", "ours", "baseline"], rows, right=["ours"])


if __name__ == "__main__":
    main()
