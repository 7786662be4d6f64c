"""How busy the machines were lately, and how fast bytes moved: what the store told, kept for a while. No widget here.

The daemon keeps no history of load; what is shown begins when the window began to look.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from octopus_desktop.wire.pb import local_pb2 as pb

KEPT_S = 1800.0


@dataclass(slots=True)
class Track:
    """One quantity over time. ``points``: (Unix seconds, value), the oldest first, of the last KEPT_S seconds."""

    points: deque[tuple[float, float]] = field(default_factory=deque)

    def add(self, at: float, value: float) -> None:
        """A point no newer than the last replaces nothing and is passed over."""
        if self.points and at <= self.points[-1][0]:
            return
        self.points.append((at, value))
        while self.points[0][0] < at - KEPT_S:
            self.points.popleft()

    @property
    def last(self) -> float | None:
        return self.points[-1][1] if self.points else None


class LoadHistory:
    """Tracks by (owner, quantity): a node's cpu, ram, disk (shares of 1), "gpu N load", "gpu N memory" (shares), "gpu N
    temperature" (°C), "gpu N power" (W); a run's in and out (bytes a second)."""

    def __init__(self) -> None:
        self.tracks: dict[tuple[str, str], Track] = {}
        self._counted: dict[tuple[str, str], tuple[float, int]] = {}

    def node(self, node: pb.Node, at: float) -> None:
        if node.state in ("offline", "asking"):
            return
        values = {
            "cpu": node.cpu_load,
            "ram": _share(node.ram_used, node.ram_total),
            "disk": _share(node.disk_total - node.disk_free, node.disk_total),
        }
        for gpu in node.gpus:
            values[f"gpu {gpu.index} load"] = gpu.utilisation
            values[f"gpu {gpu.index} memory"] = _share(gpu.memory_used, gpu.memory_total)
            values[f"gpu {gpu.index} temperature"] = gpu.temperature_c
            values[f"gpu {gpu.index} power"] = gpu.power_w
        for quantity, value in values.items():
            self.track(node.id, quantity).add(at, value)

    def run(self, run: pb.Run, at: float) -> None:
        """Bytes since the last word of the run, as a rate; the first word only begins the count."""
        for quantity, count in (("in", run.bytes_in), ("out", run.bytes_out)):
            before = self._counted.get((run.id, quantity))
            if before is not None and at <= before[0]:
                continue
            self._counted[run.id, quantity] = (at, count)
            if before is not None:
                self.track(run.id, quantity).add(at, max(0, count - before[1]) / (at - before[0]))

    def track(self, owner: str, quantity: str) -> Track:
        return self.tracks.setdefault((owner, quantity), Track())


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
