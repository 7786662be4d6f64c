"""Jobs that need packages: a second Python environment, registered, looked at, chosen at approval, and trained in."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.cli.local_federation import octopus
from octopus_desktop.system import interpreters, sandbox
from octopus_desktop.system.sandbox import Confinement
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from tests.daemon.scripted import TRAINER, scripted_federation, write_job
from tests.daemon.silo_process import SiloProcess, silo_process
from tests.daemon.test_daemon_process import fails
from tests.daemon.test_daemon_runs import write_model

NEEDS = 'requirements = ["silo-extras>=1.2", "numpy"]\n'
EXTRA_TRAINER = TRAINER.replace("import torch\n", "import silo_extras\nimport torch\n", 1).replace(
    "value.add_(1.0)", "value.add_(silo_extras.AMOUNT)"
)


def bare_environment(place: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    return place


def make_environment(place: Path, version: str = "1.5") -> Path:
    """A virtual environment with this one's packages behind its own, and a package that only it has."""
    packages = next((bare_environment(place) / "lib").glob("python3*")) / "site-packages"
    (packages / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (packages / "silo_extras.py").write_text("AMOUNT = 2.5\n")
    info = packages / f"Silo_Extras-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: Silo_Extras\nVersion: {version}\n")
    return place


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("environments") / "extras")


async def add(silo: SiloProcess, name: str, path: Path) -> pb.Runtime:
    request = pb.AddRuntimeRequest(name=name, path=str(path), request_id=new_id())
    return await silo.call("Runtimes.Add", request)


async def refused(silo: SiloProcess, offer: pb.SiloOffer, runtime: str = "") -> UserError:
    with pytest.raises(UserError) as caught:
        await silo.decide(offer, limits={"runtime": runtime} if runtime else {})
    return caught.value


async def test_a_job_that_needs_a_package_trains_in_the_runtime_that_has_it(tmp_path: Path, environment: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        job = write_job(tmp_path / "job", trainer=EXTRA_TRAINER, more=NEEDS, rounds=1)
        run_id = federation.offer("north", federation.package(job), rounds=1)
        offer = await silo.offer(run_id, "offered")

        review = await silo.call("Approvals.Review", pb.ById(id=run_id))
        hardware = next(line for line in review.summary if line.topic == "hardware")
        assert "The runtime built-in lacks silo-extras>=1.2 (not installed)." in hardware.text
        assert (hardware.verdict, hardware.why) == ("cannot", "No runtime here has what it needs.")
        assert list(review.requirements) == ["silo-extras>=1.2", "numpy"]
        built_in = pb.RuntimeMatch(name="built-in", lacks=["silo-extras>=1.2 (not installed)"])
        assert list(review.runtimes) == [built_in], "the built-in one has numpy"
        error = await refused(silo, offer)
        assert error.code == "OCT-PACKAGE-MISSING" and "silo-extras>=1.2" in error.what and "numpy" not in error.what
        assert "octopus runtime add" in error.next_step

        runtime = await add(silo, "extras", environment)
        assert (runtime.state, runtime.packages["silo-extras"]) == ("ok", "1.5") and runtime.torch and runtime.python
        assert (await silo.until(lambda s: list(s.runtimes)))[0].path == str(environment / "bin" / "python")
        review = await silo.call("Approvals.Review", pb.ById(id=run_id))
        hardware = next(line for line in review.summary if line.topic == "hardware")
        assert "It can train in the runtime extras." in hardware.text and hardware.verdict == "ask"
        assert [(m.runtime_id, m.fits) for m in review.runtimes] == [("", False), (runtime.id, True)]
        assert "--runtime extras" in (await refused(silo, offer)).next_step
        assert (await refused(silo, offer, "v-none")).code == "OCT-RUNTIME-UNKNOWN"

        await silo.decide(offer, limits={"runtime": runtime.id})
        assert await fails(silo, "Runtimes.Remove", pb.ById(id=runtime.id)) == "OCT-RUN-STATE"
        federation.task("north", run_id, 1, write_model(tmp_path / "m.safetensors", 1.0))
        answers = await federation.until(lambda: federation.answers(run_id), 60)
        answer = answers[0][1]
        assert (answer.error, answer.examples) == ("", 10)
        update = federation.blobs().path(answer.update.digest)
        assert struct.unpack("<f", update.read_bytes()[-4:]) == (3.5,), "the model's 1.0, and the package's 2.5"
        page = await silo.call("Logs.Page", pb.LogPageRequest(run_id=run_id, limit=500))
        if not await sandbox.obstacle(Confinement(), {"PATH": os.environ["PATH"]}, "sys"):
            assert not any("without a sandbox" in line.text for line in page.lines), "confined like the built-in one"

        audit = await silo.call("Audit.Page", pb.AuditPageRequest(limit=500))
        assert "runtime.added" in [entry.action for entry in audit.entries]
        await silo.kill()
        await silo.start()
        assert [r.name for r in (await silo.snapshot()).runtimes] == ["extras"], "it is kept"


async def test_what_is_no_runtime_is_refused_and_what_breaks_is_told(tmp_path: Path) -> None:
    async with silo_process(tmp_path / "silo") as silo:
        await silo.call("Setup.Configure", silo.configuration())
        environment = make_environment(tmp_path / "own", "1.0")
        bare = bare_environment(tmp_path / "bare")
        no_python = tmp_path / "no-python"
        no_python.write_text("#!/bin/sh\necho no\n")
        no_python.chmod(0o755)
        for name, path, code, why in (
            ("built-in", environment, "OCT-CONFIG-INVALID", "comes with"),
            (" ", environment, "OCT-CONFIG-INVALID", "64"),
            ("gone", tmp_path / "nowhere", "OCT-RUNTIME-BROKEN", "no Python at"),
            ("bare", bare, "OCT-RUNTIME-BROKEN", "torch and numpy are not installed there"),
            ("shell", no_python, "OCT-RUNTIME-BROKEN", "no Python that can be used"),
        ):
            with pytest.raises(UserError) as caught:
                await add(silo, name, path)
            assert caught.value.code == code and why in caught.value.why, caught.value
        runtime = await add(silo, "own", environment)
        again = await add(silo, "own", environment / "bin" / "python")
        assert again.id == runtime.id, "the same name is the same runtime"
        environment.rename(tmp_path / "moved")
        checked = await silo.call("Runtimes.Check", pb.ById(id=runtime.id, request_id=new_id()))
        assert checked.state == "broken" and "does not start" in checked.error and checked.packages
        await silo.call("Runtimes.Remove", pb.ById(id=runtime.id, request_id=new_id()))
        assert not (await silo.snapshot()).runtimes
        assert await fails(silo, "Runtimes.Check", pb.ById(id=runtime.id)) == "OCT-RUNTIME-UNKNOWN"


async def test_an_old_version_does_not_do_and_a_runtime_that_broke_stops_the_approval(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        job = write_job(tmp_path / "job", trainer=EXTRA_TRAINER, more=NEEDS, rounds=1)
        run_id = federation.offer("north", federation.package(job), rounds=1)
        offer = await silo.offer(run_id, "offered")
        runtime = await add(silo, "old", make_environment(tmp_path / "old", "1.0"))
        error = await refused(silo, offer, runtime.id)
        assert error.code == "OCT-PACKAGE-MISSING" and "silo-extras>=1.2 (1.0 is installed)" in error.what
        (tmp_path / "old").rename(tmp_path / "moved")
        error = await refused(silo, offer, runtime.id)
        assert error.code == "OCT-RUNTIME-BROKEN" and "octopus runtime check old" in error.next_step


async def test_an_environment_is_looked_at_step_by_step_before_it_is_added(tmp_path: Path, environment: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        job = write_job(tmp_path / "job", trainer=EXTRA_TRAINER, more=NEEDS, rounds=1)
        await silo.offer(federation.offer("north", federation.package(job), rounds=1), "offered")
        home = {**os.environ, "OCTOPUS_HOME": str(silo.home.root)}

        async def look(place: Path | str) -> dict[str, tuple[str, str, str]]:
            done = await asyncio.to_thread(octopus, "runtime", "look", str(place), environment=home)
            return {s["name"]: (s["state"], s["detail"], s["next_step"]) for s in json.loads(done.stdout)}

        steps = await look(environment)
        job_named = next(name for name in steps if name not in ("Python", "packages", "torch", "training"))
        assert {state for state, _, _ in steps.values()} == {"ok"} and "silo-extras>=1.2" in steps[job_named][1]
        assert not (await silo.snapshot()).runtimes, "nothing was registered"
        state, detail, advice = (await look("built-in"))[job_named]
        assert state == "failed" and "silo-extras>=1.2 (not installed)" in detail
        assert "pip install 'silo-extras>=1.2'" in advice
        bare = await look(bare_environment(tmp_path / "bare"))
        assert bare["torch"][0] == bare["training"][0] == "failed" and "not installed" in bare["torch"][1]
        nothing = await look(tmp_path / "nowhere")
        assert nothing["Python"][0] == "failed" and nothing["torch"][0] == "untried"
        text = tmp_path / "no-python"
        text.write_text("#!/bin/sh\necho no\n")
        text.chmod(0o755)
        assert "no Python that can be used" in (await look(text))["Python"][1]


async def test_the_command_line_adds_lists_checks_and_removes(tmp_path: Path, environment: Path) -> None:
    async with silo_process(tmp_path / "silo") as silo:
        await silo.call("Setup.Configure", silo.configuration())
        home = {**os.environ, "OCTOPUS_HOME": str(silo.home.root)}

        async def run(*words: str) -> Any:
            return json.loads((await asyncio.to_thread(octopus, "runtime", *words, environment=home)).stdout)

        added = await run("add", "extras", str(environment))
        assert (added["state"], added["packages"]["silo-extras"]) == ("ok", "1.5")
        assert [row["name"] for row in await run("list")] == ["extras"]
        assert (await run("check", "extras"))["state"] == "ok"
        await run("remove", "extras")
        assert await run("list") == []


def test_our_code_is_shown_to_another_interpreter_without_our_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "site-packages" / "octopus_desktop"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    monkeypatch.setattr(interpreters.octopus_desktop, "__file__", str(installed / "__init__.py"))
    (tmp_path / "run").mkdir()
    place = Path(interpreters.own_code(tmp_path / "run"))
    assert [p.name for p in place.iterdir()] == ["octopus_desktop"]
    assert (place / "octopus_desktop").resolve() == installed
