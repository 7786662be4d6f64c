"""What holds across all rooms: codes, generated modules, imports of the small processes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from octopus_desktop.wire.codes import CODES
from octopus_desktop.wire.generate import PROTOS, ROOT, generate

PACKAGE = ROOT / "octopus_desktop"
CODE = re.compile(r"OCT-[A-Z]+(?:-[A-Z]+)+")


def _sources() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path.name != "codes.py" and "pb" not in path.parts]


def test_every_code_in_the_sources_is_documented() -> None:
    used = {code for path in _sources() for code in re.findall(r'"(OCT-[A-Z]+(?:-[A-Z]+)+)"', path.read_text())}
    assert used - set(CODES) == set()


def test_every_documented_code_is_raised_somewhere() -> None:
    used = {code for path in _sources() for code in CODE.findall(path.read_text())}
    assert set(CODES) - used == set()


def test_generated_protobuf_modules_are_fresh(tmp_path: Path) -> None:
    generate(tmp_path)
    for fresh in sorted((tmp_path / PROTOS).iterdir()):
        assert fresh.read_text() == (ROOT / PROTOS / fresh.name).read_text(), f"{fresh.name}: run wire.generate"


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("octopus_desktop.cli.main", {"torch", "grpc", "PySide6", "sqlalchemy", "rich"}),
        ("octopus_desktop.daemon.main", {"torch", "PySide6", "sqlalchemy", "pyarrow"}),
        ("octopus_desktop.server.main", {"torch", "PySide6", "pyarrow"}),
        ("octopus_desktop.gui.app", {"torch", "sqlalchemy", "pyqtgraph", "pyarrow"}),
        ("octopus_desktop.training.runner", {"torch", "PySide6", "sqlalchemy"}),
    ],
)
def test_a_process_imports_only_what_it_may(module: str, forbidden: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert loaded & forbidden == set()


def test_nothing_is_unpickled() -> None:
    pattern = re.compile(r"\b(pickle|cloudpickle|dill|joblib)\.loads?\(|weights_only *= *False|allow_pickle *= *True")
    assert [str(path) for path in _sources() if pattern.search(path.read_text())] == []
