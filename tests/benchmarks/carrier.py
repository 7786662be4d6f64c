"""What the carrier costs beside its floors: ``python -m tests.benchmarks.carrier --sizes 1,100,1024 --silos 2``.

One model down to each silo, one update up from each; see ``measure`` for what the floors leave out.
"""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from tests.benchmarks.measure import FLOORS, ROUNDS, measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1,100,1024", help="MiB, with commas between")
    parser.add_argument("--silos", default="2", help="numbers of silos, with commas between")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="the best of so many counts")
    parser.add_argument("--ways", default=",".join((*FLOORS, "carrier")))
    words = parser.parse_args()
    table = Table(title="A model down to each silo and an update up: best round")
    for title in (
        "MiB",
        "silos",
        "over",
        "seconds",
        "to TLS",
        "to bare gRPC",
        "CPU s",
        "server MiB",
        "silo MiB",
        "wire MiB",
    ):
        table.add_column(title, justify="left" if title == "over" else "right")
    ways = words.ways.split(",")
    for silos in (int(n) for n in words.silos.split(",")):
        for mib in (int(n) for n in words.sizes.split(",")):
            results = measured(ways, mib, silos, words.rounds)
            bare = min((results[way].seconds for way in ways if way.startswith("grpc")), default=0.0)
            tls = results["tls"].seconds if "tls" in results else 0.0
            for way, one in results.items():
                table.add_row(
                    str(mib),
                    str(silos),
                    way,
                    f"{one.seconds:.4f}",
                    f"{one.seconds / tls:.2f}" if tls else "",
                    f"{one.seconds / bare:.2f}" if bare else "",
                    f"{one.cpu:.2f}",
                    f"{one.rss['server']:.0f}",
                    f"{one.rss['silo']:.0f}",
                    f"{one.wire / (1 << 20):.0f}",
                    end_section=way == ways[-1],
                )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
