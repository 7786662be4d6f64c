"""Dropouts, links, sync against async in simulated time; the rounds as CSV, Parquet and curves."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from octopus_desktop.simulation import modes, reports
from octopus_desktop.simulation.clock import Pace, by_silo
from octopus_desktop.simulation.jobs import Job, open_job
from octopus_desktop.wire.errors import UserError
from tests.simulation.test_simulation_run import Lab, octopus


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def job(lab: Lab) -> Iterator[Job]:
    with open_job(lab.folder, lab.root / "opened") as job:
        yield job


def test_silos_drop_out_by_the_seed_and_the_round_closes_without_them(lab: Lab, job: Job) -> None:
    wish = {"run": {"rounds": 12}}
    first, again = (lab.run(name, job, wish, dropout=0.3) for name in ("first", "again"))
    missing = [row.missing for row in first.rounds]
    assert missing == [row.missing for row in again.rounds]
    assert first.digest == again.digest
    assert 3 <= sum(map(len, missing)) == first.dropped <= 20
    assert first.skipped == (), "asked for, so no fault of the silos"
    assert lab.run("whole", job, wish).dropped == 0


def test_a_slow_link_costs_its_bytes(lab: Lab, job: Job) -> None:
    result = lab.run("slow", job, {"run": {"rounds": 2}}, pace=Pace(mbit=dict.fromkeys(lab.silos, 0.001)))
    bits = 2 * result.size * 8
    assert result.rounds[0].seconds == pytest.approx(1 + bits / 1000)
    assert result.virtual_seconds == pytest.approx(2 * (1 + bits / 1000) + 1 + bits / 2000)


def test_stragglers_are_drawn_by_the_seed_and_hold_up_a_synchronous_round(lab: Lab, job: Job) -> None:
    wish = {"run": {"rounds": 12}}
    first, again = (lab.run(name, job, wish, pace=Pace(straggling=0.3, factor=20.0)) for name in ("first", "again"))
    seconds = [row.seconds for row in first.rounds]
    assert seconds == [row.seconds for row in again.rounds]
    assert {round(one) for one in seconds} == {1, 20}
    assert first.digest == lab.run("even", job, wish).digest, "they are late, not gone"
    late = lab.run(
        "late", job, {"run": {"rounds": 12, "round_deadline_s": 5, "quorum": 1}}, pace=Pace(straggling=0.3, factor=20.0)
    )
    assert any(row.missing for row in late.rounds)
    assert max(row.seconds for row in late.rounds) <= 5


def test_speeds_are_said_for_all_for_one_or_drawn() -> None:
    silos = [f"s{number}" for number in range(1000)]
    assert by_silo("--speed", ["2", "s3=9"], silos[:5], 1) == {"s0": 2, "s1": 2, "s2": 2, "s3": 9, "s4": 2}
    drawn = by_silo("--speed", ["lognormal:3:0.5"], silos, 1)
    assert (
        drawn == by_silo("--speed", ["lognormal:3:0.5"], silos, 1) != by_silo("--speed", ["lognormal:3:0.5"], silos, 2)
    )
    assert sorted(drawn.values())[500] == pytest.approx(3, rel=0.1)
    even = by_silo("--link", ["uniform:5:10", "s1=1"], silos, 1)
    assert even.pop("s1") == 1
    assert 5 <= min(even.values()) < 6 and 9 < max(even.values()) <= 10


@pytest.mark.parametrize("word", ["zed=3", "s0=-1", "s0=nan", "lognormal:1", "uniform:0:0", "fast", "normal:1:2"])
def test_a_speed_that_means_nothing_is_refused(word: str) -> None:
    with pytest.raises(UserError) as error:
        by_silo("--speed", [word], ["s0", "s1"], 1)
    assert error.value.code == "OCT-CLI-USAGE"
    assert word in error.value.what


@pytest.mark.parametrize("pace", [{"seconds": {"a": 0.0}}, {"mbit": {"a": -1.0}}, {"straggling": 2.0}, {"factor": 0.0}])
def test_an_impossible_pace_is_refused(pace: dict[str, Any]) -> None:
    with pytest.raises(UserError) as error:
        Pace(**pace)
    assert error.value.code == "OCT-CONFIG-INVALID"


@pytest.mark.parametrize("fault", [{"dropout": 1.0}, {"dropout": -0.1}])
def test_impossible_faults_are_refused(lab: Lab, job: Job, fault: dict[str, float]) -> None:
    with pytest.raises(UserError) as error:
        lab.run("run", job, **fault)  # type: ignore[arg-type]
    assert error.value.code == "OCT-CONFIG-INVALID"


def test_async_gets_ahead_of_sync_where_one_silo_is_slow(lab: Lab, job: Job) -> None:
    from octopus_desktop.simulation import layout

    data = layout.explicit(job, lab.words())
    results = modes.compare(
        job, data, {"run": {"rounds": 10}}, ["sync", "async"], work=lab.root / "both", pace=Pace(seconds={"cyd": 15.0})
    )
    judged = modes.judge(job, data, results, lab.root / "both")
    assert modes.common_metric(judged) == "eval/loss"
    curves = modes.against_time(judged, "eval/loss")
    assert curves["sync"][-1][1] == pytest.approx(results["sync"].metrics["eval/loss"])
    assert len(curves["async"]) > 8
    assert results["sync"].virtual_seconds > 2 * results["async"].virtual_seconds
    assert curves["async"][-1][1] < 0.7 * curves["async"][0][1]
    with pytest.raises(UserError):
        modes.compare(job, data, {}, ["sync", "later"], work=lab.root / "no")


def test_metrics_as_csv_and_parquet_say_the_same(lab: Lab, job: Job) -> None:
    import pyarrow.parquet as pq

    result = lab.run("run", job)
    reports.write(lab.root / "m.csv", result)
    reports.write(lab.root / "m.parquet", result)
    plain = list(csv.DictReader((lab.root / "m.csv").open()))
    columns = pq.read_table(lab.root / "m.parquet").to_pylist()
    assert [row["round"] for row in columns] == [0, 1, 2, 3]
    assert [float(row["eval/loss"]) for row in plain] == [row["eval/loss"] for row in columns]
    assert columns[-1]["model"] == result.digest
    with pytest.raises(UserError):
        reports.write(lab.root / "m.xlsx", result)


def test_curves_are_drawn_as_sound_svg(lab: Lab, job: Job) -> None:
    result = lab.run("run", job)
    reports.plot(lab.root / "p.svg", reports.panels_of(result))
    root = ElementTree.parse(lab.root / "p.svg").getroot()
    lines = root.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert sorted(len(line.get("points", "").split()) for line in lines) == [3, 4], "training, and evaluation from 0"
    reports.plot(lab.root / "empty.svg", {"a <b>": {"flat & short": [(0, 1)], "none": []}})
    ElementTree.parse(lab.root / "empty.svg")
    with pytest.raises(UserError):
        reports.plot(lab.root / "p.bmp", {})


def test_what_an_extra_is_needed_for_says_so(lab: Lab, job: Job) -> None:
    result = lab.run("run", job, {"run": {"rounds": 1}})
    for package, write in (
        ("tensorboard", lambda: reports.write_events(lab.root / "events", result)),
        ("matplotlib", lambda: reports.plot(lab.root / "p.png", reports.panels_of(result))),
    ):
        if find_spec(package):
            write()
            continue
        with pytest.raises(UserError) as error:
            write()
        assert error.value.code == "OCT-PACKAGE-MISSING"
        assert package in error.value.what


def test_the_command_compares_draws_and_refuses(lab: Lab) -> None:
    words = [w for word in lab.words() for w in ("--silo", word)]
    plot = lab.root / "both.svg"
    base = ["--json", "simulate", str(lab.folder), *words, "--rounds", "2"]
    done = octopus(*base, "--compare", "sync,async", "--speed", "cyd=9", "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told["modes"]) == {"sync", "async"}
    assert "polyline" in plot.read_text()
    for more, code in ((["--batched"], "OCT-CONFIG-INVALID"), (["--metrics", "m.xls"], "OCT-CLI-USAGE")):
        done = octopus(*base, *more)
        assert done.returncode == 1 and code in done.stderr, (more, done.stderr)


@pytest.mark.parametrize(
    "words",
    [
        ["--workers", "0"],
        ["--workers", "2", "--ddp-workers", "2"],
        ["--workers", "2", "--batched"],
        ["--compare", "sync", "--out", "m"],
        ["--compare", "sync,later"],
        ["--plot", "p.bmp"],
    ],
    ids=" ".join,
)
def test_words_that_do_not_fit_are_refused(lab: Lab, words: list[str]) -> None:
    from click.testing import CliRunner

    from octopus_desktop.cli.simulate import cli

    silos = [w for word in lab.words() for w in ("--silo", word)]
    done = CliRunner().invoke(cli, [str(lab.folder), *silos, *words])
    assert isinstance(done.exception, UserError)
    assert done.exception.code == "OCT-CLI-USAGE"
