"""``octopus federation run --mpi``: what is refused before, and at, the start of a world."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from octopus_desktop.cli.main import cli
from octopus_desktop.wire.errors import UserError

HOMES = ("--server-home", "/nowhere/server", "--silo-home", "alpha=/nowhere/alpha")


def refused(*words: str) -> UserError:
    result = CliRunner().invoke(cli, ["federation", "run", *words])
    assert isinstance(result.exception, UserError), result.output
    return result.exception


def test_only_mpi_is_started_so() -> None:
    assert refused("run-1", *HOMES).code == "OCT-CLI-USAGE"


@pytest.mark.parametrize("words", [[], ["run-1", "--all"]])
def test_runs_are_named_or_all_are_meant(words: list[str]) -> None:
    assert refused("--mpi", *words, *HOMES).code == "OCT-CLI-USAGE"


@pytest.mark.parametrize("word", ["alpha", "=/x", "alpha="])
def test_a_silos_home_is_a_name_and_a_directory(word: str) -> None:
    assert refused("--mpi", "run-1", "--server-home", "/s", "--silo-home", word).code == "OCT-CLI-USAGE"


def test_homes_come_from_a_file_too(tmp_path: Path) -> None:
    homes = tmp_path / "homes.toml"
    homes.write_text('server = "/s"\n[silos]\nalpha = "/a"\n')
    words = ("--mpi", "run-1", "--homes", str(homes), "--mpiexec", str(tmp_path / "none"))
    assert refused(*words).code == "OCT-MPI-MISSING", "everything before the launcher was there"
    homes.write_text("server = 5\n")
    assert refused(*words).code == "OCT-CLI-USAGE"
    homes.write_text("server =\n")
    assert refused(*words).code == "OCT-CLI-USAGE"
    homes.write_text('server = "/s"\n')
    assert refused(*words).code == "OCT-CONFIG-INVALID", "no silo"


def test_a_process_that_is_no_rank_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    error = refused("--mpi", "run-1", "--as-rank", *HOMES)
    assert error.code == "OCT-MPI-RANK" and "srun" in error.next_step


def test_under_srun_a_rank_that_has_no_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_RANK", "5")
    assert refused("--mpi", "run-1", "--as-rank", *HOMES).code == "OCT-CONFIG-INVALID"


def test_a_world_whose_server_has_no_home_ends_with_that_reason(tmp_path: Path) -> None:
    words = ("--mpi", "run-1", "--server-home", str(tmp_path), "--silo-home", f"alpha={tmp_path / 'alpha'}")
    error = refused(*words)
    assert error.code == "OCT-STATE-MISSING" and "--server-home" in error.next_step
