"""What the benchmarks show of their numbers."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from tests.benchmarks.carriers import FLOORS_OF, picture, row, shown, ways_of
from tests.benchmarks.measure import Measured, sealing_seconds
from tests.benchmarks.plot import Bar, bars


def made(seconds: float) -> Measured:
    return Measured(seconds=seconds, cpu=0.5, rss={"server": 70.0, "silo": 60.0}, wire=1 << 20)


def test_each_carrier_comes_with_its_floors() -> None:
    ways = ways_of(["grpc", "mpi"], clear=True)
    assert ways == ["tls", "grpc-sync", "grpc-aio", "mpi_send", "grpc", "mpi", "mpi-clear"]
    assert set(ways_of(list(FLOORS_OF), clear=False)) >= {"paho", "boto3", "rpc_sync", *FLOORS_OF}


def test_the_aim_is_half_more_than_the_floor_and_the_sealing() -> None:
    results = {"grpc-sync": made(2.0), "grpc-aio": made(1.0), "grpc": made(1.5), "paho": made(1.0), "mqtt": made(1.5)}
    assert row(100, 2, "grpc", results, 9.0)["of_aim"] == 1.0, "of the better floor; gRPC seals nothing"
    assert row(100, 2, "mqtt", results, 9.0)["of_aim"] < 1.0
    assert row(100, 2, "paho", results, 9.0)["of_aim"] == 0.0
    assert sealing_seconds(4, 2, 1) > 0


def test_table_and_picture_show_every_way() -> None:
    results = {"grpc-sync": made(2.0), "grpc": made(1.5)}
    rows = [row(mib, 2, way, results, 0.0) for mib in (1, 100) for way in results]
    assert shown(rows).row_count == 4
    root = ET.fromstring(picture(rows))
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "1 MiB, 2 silos" in words and "100 MiB, 2 silos" in words and "grpc" in words
    ET.fromstring(bars("nothing & <no one>", []))
    ET.fromstring(bars("zero", [("a", [Bar(name="b", value=0.0)])]))
