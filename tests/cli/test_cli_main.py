"""The command line's front door."""

from __future__ import annotations

import json
import subprocess
import sys

from click.testing import CliRunner

from octopus_desktop.cli.main import NOUNS, cli


def test_help_names_every_noun_and_imports_none_of_them() -> None:
    code = (
        "import sys; from octopus_desktop.cli.main import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted(m for m in ('grpc','rich','torch','PySide6','sqlalchemy','cryptography') if m in sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(noun in out for noun in NOUNS)
    assert out.rstrip().endswith("[]")


def test_an_unknown_noun_is_answered_with_the_nearest_one() -> None:
    result = CliRunner().invoke(cli, ["deamon"])
    assert result.exit_code == 2
    assert "Did you mean 'daemon'?" in result.output


def test_completion_script_is_printed_for_each_shell() -> None:
    for shell in ("bash", "zsh", "fish"):
        result = CliRunner().invoke(cli, ["completion", shell])
        assert result.exit_code == 0 and "_OCTOPUS_COMPLETE" in result.output


def test_a_daemon_that_is_away_is_told_with_code_and_next_step(tmp_path) -> None:  # type: ignore[no-untyped-def]
    command = [sys.executable, "-m", "octopus_desktop.cli.main", "--home", str(tmp_path), "--json", "runs", "list"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert json.loads(result.stderr)["error"]["code"] == "OCT-DAEMON-AWAY"
