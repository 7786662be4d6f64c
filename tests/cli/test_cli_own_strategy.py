"""A job with a strategy of its own, from the first file to a server whose operator has a say in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.cli.local_federation import octopus
from octopus_desktop.wire.errors import UserError
from tests.cli.test_cli_jobs import environment, run


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("own-strategy")
    run(place, "jobs", "new", place / "mine", "--own-strategy")
    return place / "mine"


@pytest.fixture(scope="module")
def server(job: Path) -> Iterator[Path]:
    place = job.parent
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run(place, "server", "init", "--name", "Heart Alliance", "--host", "127.0.0.1", "--port", port)
    octopus("server", "start", environment=environment(place))
    yield place / "server"
    octopus("server", "stop", environment=environment(place))


def check(job: Path) -> Any:
    words = [sys.executable, "-m", "octopus_desktop.cli.main", "--json", "jobs", "check", str(job)]
    done = subprocess.run(words, env=os.environ, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_the_new_job_is_in_order_and_a_reviewer_is_pointed_at_its_strategy(job: Path) -> None:
    told = check(job)
    assert told["mistakes"] == []
    (finding,) = told["findings"]
    assert (finding["rule"], finding["severity"], finding["path"]) == ("own-strategy", "medium", "code/strategy.py")
    line = (job / "code" / "strategy.py").read_text().splitlines()[finding["line"] - 1]
    assert line == "class Strategy(Synchronous):"


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("job.toml", '"strategy:Strategy"', '"strategy:Strategist"', "did you mean 'Strategy'"),
        ("job.toml", '"strategy:Strategy"', '"tactics:Strategy"', "code/tactics.py is not in the job"),
        ("job.toml", '"strategy:Strategy"', '"strategy:"', "'strategy:' is not allowed"),
        ("job.toml", '"strategy:Strategy"', '"strategy:Strategy"\nmomentum = 2', "'momentum' .* out of range"),
        ("job.toml", 'encoding = "none"', 'encoding = "none"\nlate = "next"', "cannot be used with whole weights"),
        ("code/strategy.py", "(Synchronous)", "(object)", "does not derive from Synchronous or"),
        ("code/strategy.py", "(tile, self.update)", "(tile)", "line 27, in combine: TypeError"),
        ("code/strategy.py", "rate, out=delta)", "rate * len(delta), out=delta)", "is cut into tiles"),
    ],
)
def test_check_tells_what_is_wrong_with_it(
    job: Path, tmp_path: Path, file: str, old: str, new: str, words: str
) -> None:
    spoilt = Path(shutil.copytree(job, tmp_path / "job"))
    before = (spoilt / file).read_text()
    assert old in before
    (spoilt / file).write_text(before.replace(old, new))
    told = check(spoilt)
    assert re.search(words, " ".join(m["text"] for m in told["mistakes"])), told["mistakes"]


def test_the_operator_is_asked_before_it_may_run_on_the_server(job: Path, server: Path) -> None:
    place = job.parent
    package = place / "mine.octojob"
    run(place, "jobs", "build", job, "-o", package)
    key = run(place, "jobs", "key")["key"]
    run(place, "server", "authors", "add", "ada", key)
    run(place, "jobs", "sign", package, "--author", "ada")
    words = [sys.executable, "-m", "octopus_desktop.cli.main", "jobs", "submit", str(package)]
    told = subprocess.run(words, env=environment(place), capture_output=True, text=True)
    assert "octopus server runs start mine --allow-own-strategy" in told.stdout
    with pytest.raises(UserError) as refused:
        run(place, "server", "runs", "start", "mine")
    assert refused.value.code == "OCT-STRATEGY-FOREIGN"
    assert "Its author is ada (" in refused.value.why
    assert "Read code/strategy.py" in refused.value.next_step and "--allow-own-strategy" in refused.value.next_step
    with pytest.raises(UserError) as too_few:  # it is allowed, and there is nobody to ask
        run(place, "server", "runs", "start", "mine", "--allow-own-strategy")
    assert too_few.value.code == "OCT-RUN-QUORUM"
    with pytest.raises(UserError) as other:  # another strategy by the operator's wish needs nobody's leave
        run(place, "server", "runs", "start", "mine", "--set", "strategy.name=fedavg")
    assert other.value.code == "OCT-RUN-QUORUM"
