"""A machine's facts as a ``Node`` row: our own, and those that another machine tells of itself."""

from __future__ import annotations

import time

from octopus_desktop.system.inventory import MachineFacts
from octopus_desktop.wire.pb import local_pb2 as pb

TEXTS = ("cpu_model", "os", "python", "torch")
NUMBERS = ("cpu_count", "cpu_load", "ram_total", "ram_used", "disk_total", "disk_free")
TEXT_LIMIT = 200
GPUS_MOST = 64


def fill(node: pb.Node, facts: MachineFacts) -> None:
    """Bring a row's figures up to date with this machine's facts."""
    for name in (*TEXTS, *NUMBERS):
        setattr(node, name, getattr(facts, name))
    node.seen_at = round(time.time(), 3)
    del node.gpus[:]
    node.gpus.extend(
        pb.Gpu(
            index=g.index,
            name=g.name,
            memory_total=g.memory_total,
            memory_used=g.memory_used,
            utilisation=g.utilisation,
            temperature_c=g.temperature_c,
            power_w=g.power_w,
            driver=g.driver,
        )
        for g in facts.gpus
    )


def take(node: pb.Node, told: pb.Node) -> None:
    """Bring a further machine's row up to date with what its agent tells: figures alone, never name or state, and no
    text without end."""
    for name in TEXTS:
        setattr(node, name, getattr(told, name)[:TEXT_LIMIT])
    for name in NUMBERS:
        setattr(node, name, getattr(told, name))
    node.cpu_load = min(1.0, max(0.0, told.cpu_load))
    node.seen_at = round(time.time(), 3)
    del node.gpus[:]
    for gpu in told.gpus[:GPUS_MOST]:
        mine = node.gpus.add()
        mine.CopyFrom(gpu)
        mine.name, mine.driver = gpu.name[:TEXT_LIMIT], gpu.driver[:TEXT_LIMIT]
