"""What each carrier costs beside its floor: ``python -m tests.benchmarks.carriers --sizes 1,100,1024 --silos 2,8``.

One model down to each silo, one update up from each, in one run with all floors: a raw TLS socket, a bare gRPC stream,
plain paho through the same kind of broker, plain boto3 with the same kind of store, bare ``rpc_sync``, bare
``MPI.Send``. Floors move bytes from memory to nowhere; carriers have real mailboxes and stores on disk, with digests
and resumption. ``--clear`` adds PyTorch RPC and MPI without sealing, whose cost is a column of its own besides: CPU
seconds to seal and open the round's bytes on one core. ``of aim`` is seconds / (1.5 x floor + sealing, spread over the
cores): 1 or less is what we want. The floor of gRPC is a bare gRPC stream with mutual TLS.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.measure import ROUNDS, Measured, measured, sealing_seconds
from tests.benchmarks.peers import CLEAR
from tests.benchmarks.plot import Bar, bars

FLOORS_OF = {
    "grpc": ("grpc-sync", "grpc-aio"),
    "mqtt": ("paho",),
    "mqtt_s3": ("boto3",),
    "torch_rpc": ("rpc_sync",),
    "mpi": ("mpi_send",),
}
SEALED = ("mqtt", "mqtt_s3", "torch_rpc", "mpi")
UNSEALABLE = ("torch_rpc", "mpi")
AIM = 1.5
COLUMNS = ("MiB", "silos", "over", "seconds", "floor", "sealing", "of aim", "CPU s", "peak MiB by process", "wire MiB")


def ways_of(carriers: Sequence[str], clear: bool) -> list[str]:
    """Floors first, each once, then the carriers."""
    floors = ["tls", *(floor for carrier in carriers for floor in FLOORS_OF[carrier])]
    return [*floors, *carriers, *(f"{c}{CLEAR}" for c in carriers if clear and c in UNSEALABLE)]


def floor_of(way: str, results: Mapping[str, Measured]) -> float:
    """Seconds of a carrier's own floor; 0 for a floor."""
    floors = FLOORS_OF.get(way.removesuffix(CLEAR), ())
    return min((results[floor].seconds for floor in floors if floor in results), default=0.0)


def row(mib: int, silos: int, way: str, results: Mapping[str, Measured], sealing: float) -> dict[str, Any]:
    """One line of the table, as plain values."""
    one, floor = results[way], floor_of(way, results)
    sealing = sealing if way in SEALED else 0.0
    allowed = AIM * floor + sealing / (os.cpu_count() or 1)
    return {
        "mib": mib,
        "silos": silos,
        "way": way,
        **asdict(one),
        "floor": floor,
        "sealing": sealing,
        "of_aim": one.seconds / allowed if floor else 0.0,
    }


def shown(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="A model down to each silo and an update up: best round")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("over", "peak MiB by process") else "right")
    for number, r in enumerate(rows):
        following = rows[number + 1] if number + 1 < len(rows) else None
        last = following is None or (following["mib"], following["silos"]) != (r["mib"], r["silos"])
        table.add_row(
            str(r["mib"]),
            str(r["silos"]),
            r["way"],
            f"{r['seconds']:.4f}",
            f"{r['floor']:.4f}" if r["floor"] else "",
            f"{r['sealing']:.3f}" if r["sealing"] else "",
            f"{r['of_aim']:.2f}" if r["of_aim"] else "",
            f"{r['cpu']:.2f}",
            " ".join(f"{role} {mib:.0f}" for role, mib in r["rss"].items()),
            f"{r['wire'] / (1 << 20):.0f}",
            end_section=last,
        )
    return table


def picture(rows: Sequence[Mapping[str, Any]]) -> str:
    groups: dict[str, list[Bar]] = {}
    for r in rows:
        if r["floor"]:
            bar = Bar(name=r["way"], value=r["seconds"], floor=r["floor"])
            groups.setdefault(f"{r['mib']} MiB, {r['silos']} silos", []).append(bar)
    return bars("A round over each carrier", list(groups.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--carriers", default=",".join(FLOORS_OF), help="with commas between")
    parser.add_argument("--sizes", default="1,100,1024", help="MiB, with commas between")
    parser.add_argument("--silos", default="2,8", help="numbers of silos, with commas between")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="the best of so many counts")
    parser.add_argument("--clear", action="store_true", help="PyTorch RPC and MPI without sealing, too")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--plot", type=Path, help="write a picture (SVG) here")
    words = parser.parse_args()
    carriers = words.carriers.split(",")
    if unknown := [carrier for carrier in carriers if carrier not in FLOORS_OF]:
        parser.error(f"no carrier {', '.join(unknown)}; there are {', '.join(FLOORS_OF)}")
    ways, rows = ways_of(carriers, words.clear), list[dict[str, Any]]()
    for silos in (int(n) for n in words.silos.split(",")):
        for mib in (int(n) for n in words.sizes.split(",")):
            results = measured(ways, mib, silos, words.rounds)
            sealing = sealing_seconds(mib, silos)
            rows += [row(mib, silos, way, results, sealing) for way in ways]
            if words.json:
                words.json.write_text(json.dumps(rows, indent=2))
    Console(width=170).print(shown(rows))
    if words.plot:
        words.plot.write_text(picture(rows))


if __name__ == "__main__":
    main()
