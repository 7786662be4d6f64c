"""``octopus demo``: four real hospitals, one server, one job, on this machine, over any of the carriers.

The first hospital's administrator is you; the others approve by a standing rule that says so. Each carrier has a
directory of its own, for a demo goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from octopus_desktop.cli.common import json_option, say, size, table, wants_json
from octopus_desktop.wire.errors import UserError

if TYPE_CHECKING:
    from octopus_desktop.cli.local_federation import LocalFederation, LocalSilo

FEDERATION = "Heart Alliance"
HOSPITALS = {
    "cleveland": ("Cleveland Clinic", "Dr. Amara Osei"),
    "hungary": ("Hungarian Institute of Cardiology", "Dr. Zsófia Németh"),
    "va-long-beach": ("VA Medical Center, Long Beach", "Dr. Daniel Ruiz"),
    "switzerland": ("University Hospitals Zurich and Basel", "Dr. Lea Baumann"),
}
ENDED = ("completed", "stopped", "failed")
CARRIERS = ("grpc", "mqtt", "mqtt_s3", "torch_rpc", "mpi")


@click.command("demo")
@click.option("--headless", is_flag=True, help="Without a screen: approve by the command line and end with a table.")
@click.option("--clean", is_flag=True, help="Stop everything and remove the demo's directory.")
@click.option("--stop", is_flag=True, help="Stop the demo's server and daemons; its directory stays.")
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="Where everything of the demo lies.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds of the run; the job's own number unless told.")
@click.option(
    "--carrier",
    type=click.Choice(CARRIERS),
    help="By what messages and models travel (default: grpc). A broker or store comes along, where one is needed.",
)
@click.option("--from-window", is_flag=True, hidden=True, help="Prepare, print the first silo's home, and end.")
@json_option
def cli(
    headless: bool,
    clean: bool,
    stop: bool,
    folder: Path | None,
    rounds: int | None,
    carrier: str | None,
    from_window: bool,
) -> None:
    """A whole federation on this machine: a server, four hospitals with their own data, and a job that asks.

    With a screen, the window of the first hospital opens and waits for your decision. --stop and --clean mean the demos
    of all carriers, unless --carrier or --dir names one.
    """
    if clean or stop:
        return _end(_places(folder, carrier), remove=clean)
    root = folder or _default_folder(carrier or "grpc")
    federation = _federation(root, _agreed(root, carrier))
    if not (headless or from_window or _has_screen()):
        raise UserError(
            "OCT-CLI-USAGE",
            "There is no screen for the window.",
            "Neither DISPLAY nor WAYLAND_DISPLAY is set.",
            "Run the demo with --headless, or from a desktop session.",
        )
    began = time.monotonic()
    first = federation.silos[0]
    (federation.root / "carrier").write_text(federation.carrier)
    say(f"Everything of this demo lies in {federation.root}")
    _step("giving each hospital its own data", lambda: prepare_data(federation.root))
    parts = {"mqtt": "a broker, ", "mqtt_s3": "a broker, an S3 store, "}.get(federation.carrier, "")
    _step(f"starting {parts}the federation server and four silos", federation.start)
    run_id = _step("offering the job to the silos", lambda: _offer(federation, rounds))
    if from_window:
        ready = {"ready": True, "home": str(first.home.root), "passphrase_file": str(first.passphrase_file)}
        return click.echo(json.dumps(ready))
    if headless:
        try:
            _headless(federation, run_id, began)
        finally:
            _step("stopping the server and the silos", federation.stop)
        return None
    say(f"The window of {first.plan.organisation} opens; the job waits there for your decision.")
    code = subprocess.call(
        [sys.executable, "-m", "octopus_desktop.gui.app", "--home", str(first.home.root)], env=first.environment
    )
    say("The daemons go on with their work. 'octopus demo --stop' stops them, 'octopus demo --clean' removes all.")
    sys.exit(code)


def _agreed(root: Path, carrier: str | None) -> str:
    """The carrier of the demo in ``root``. Raises OCT-STATE-EXISTS when it was made over another one."""
    kept = _kept(root)
    if kept and carrier and kept != carrier:
        raise UserError(
            "OCT-STATE-EXISTS",
            f"The demo in {root} goes over {kept}.",
            f"It was made so; {carrier} is asked for now.",
            "Give another --dir, or remove it first with --clean and this --dir.",
        )
    return carrier or kept or "grpc"


def _kept(root: Path) -> str:
    try:
        return (root / "carrier").read_text().strip()
    except OSError:
        return "grpc" if (root / "server").is_dir() else ""


def _places(folder: Path | None, carrier: str | None) -> list[Path]:
    """The directories of the demos that are meant and there."""
    named = [folder] if folder else [_default_folder(name) for name in ([carrier] if carrier else CARRIERS)]
    return [place for place in named if place.is_dir()]


def _end(places: list[Path], *, remove: bool) -> None:
    for place in places:
        federation = _federation(place, _kept(place) or "grpc")
        if remove:
            federation.remove()
            say(f"{place} is gone.")
        else:
            federation.stop()
            say(f"The demo in {place} is stopped.")
    if not places:
        say("There is no demo here.")
    elif not remove:
        say("'octopus demo' starts it again, 'octopus demo --clean' removes it.")


def _federation(root: Path, carrier: str) -> LocalFederation:
    from octopus_desktop.cli.local_federation import LocalFederation, SiloPlan

    data = root / "data"
    plans = [
        SiloPlan(
            name=name,
            organisation=organisation,
            administrator=administrator,
            data={"patients": data / f"{name}.csv"},
            rule=None if place == 0 else {"effect": "approve", "job": "heart*", "max_rounds": 1000},
        )
        for place, (name, (organisation, administrator)) in enumerate(HOSPITALS.items())
    ]
    return LocalFederation(root, FEDERATION, plans, carrier=carrier)


def _default_folder(carrier: str) -> Path:
    import platformdirs

    name = "octopus-demo" if carrier == "grpc" else f"octopus-demo-{carrier}"
    return Path(platformdirs.user_data_dir(name, appauthor=False))


def _has_screen() -> bool:
    if sys.platform in ("win32", "darwin") or os.environ.get("QT_QPA_PLATFORM") == "offscreen":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _step(text: str, work: Any) -> Any:
    """Do a long thing under a spinner that says what it is."""
    if wants_json():
        return work()
    from rich.console import Console

    began = time.monotonic()
    console = Console(stderr=True)
    with console.status(text):
        result = work()
    console.print(f"[green]✓[/green] {text} [dim]{time.monotonic() - began:.1f} s[/dim]")
    return result


def _offer(federation: LocalFederation, rounds: int | None) -> str:
    """A run of the heart job that still waits or runs, or a new one."""
    from octopus_desktop.wire.pb.operator_pb2 import ListRunsRequest

    for run in federation.server().call("Operator.ListRuns", ListRunsRequest()).runs:
        if run.job_name.startswith("heart") and run.state not in ENDED:
            if federation.carrier == "mpi":
                federation.parts.stop_worlds()  # the run goes on in a new one, whether the last one stands or not
                federation.start_world(run.id)
            return str(run.id)
    digest = federation.submit(examples() / "heart")
    return federation.start_run(digest, {"run": {"rounds": rounds}} if rounds else None)


def examples() -> Path:
    """The example jobs: beside the package in a checkout."""
    place = Path(__file__).resolve().parents[2] / "resources" / "examples"
    if not place.is_dir():
        raise UserError(
            "OCT-PACKAGE-MISSING",
            "The example jobs are not here.",
            f"{place} does not exist.",
            "Run the demo from a checkout of the project.",
        )
    return place


def prepare_data(root: Path) -> None:
    """Write each hospital's own CSV, once."""
    from octopus_desktop.simulation.example_data import heart

    if not (root / "data").is_dir():
        heart(root / "data")


def _headless(federation: LocalFederation, run_id: str, began: float) -> None:
    first = federation.silos[0]
    federation.wait_offer(first, run_id, ("offered", "approved"))
    done = first.command("approvals", "approve", run_id)
    say(f"{first.plan.administrator} of {first.plan.organisation} approves: {json.loads(done.stdout)['state']}.")
    run = _watch(federation, run_id)
    if run.state != "completed":
        raise UserError(run.code or "OCT-RUN-STATE", f"The run is {run.state}.", run.reason, "Look at the logs.")
    trained_s = run.ended_at - run.started_at
    scores = _step("training each hospital alone, and one model on the pooled data", lambda: _scores(federation, run))
    result = {
        "run": run_id,
        "rounds": run.rounds,
        "accuracy": scores,
        "carrier": run.carrier or federation.carrier,
        "bytes_in": run.bytes_in,
        "bytes_out": run.bytes_out,
        "training_s": trained_s,
        "seconds": time.monotonic() - began,
        "model": run.model.digest,
    }
    if wants_json():
        click.echo(json.dumps(result, indent=2))
    else:
        _table(federation.silos, run, result)


def _watch(federation: LocalFederation, run_id: str) -> Any:
    """Progress bars: one for the run's rounds, one a silo for its work in the round. Returns the ended run."""
    if wants_json():
        *_, last = federation.watch(run_id)
        return last
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<38}"), BarColumn(bar_width=32), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    last = None
    with Progress(*columns) as bars:
        whole = bars.add_task("federated rounds", total=None, note="")
        names = {silo.plan.name: silo.plan.organisation for silo in federation.silos}
        lines = {name: bars.add_task(f"  {text}", total=None, note="") for name, text in names.items()}
        for last in federation.watch(run_id):
            accuracy = last.history[-1].metrics.get("eval/accuracy") if last.history else None
            done = last.rounds if last.state == "completed" else len(last.history)
            note = f"accuracy {accuracy:.3f}" if accuracy is not None else last.state
            bars.update(whole, total=last.rounds or None, completed=min(done, last.rounds), note=note)
            for silo in last.silos:
                if silo.silo in lines:
                    at = last.rounds if last.state == "completed" else min(silo.round, last.rounds)
                    bars.update(lines[silo.silo], total=last.rounds or None, completed=at, note=silo.state)
    return last


def _scores(federation: LocalFederation, run: Any) -> dict[str, float]:
    """Accuracy on the pooled test rows: federated model, each silo alone, one model on the pooled data.

    Runs in a process of its own, which may import torch.
    """
    from octopus_desktop.wire.pb.operator_pb2 import ExportModelRequest

    model = federation.root / "federated.safetensors"
    with model.open("wb") as file:
        for chunk in federation.server().stream("Operator.ExportModel", ExportModelRequest(run_id=run.id)):
            file.write(chunk.data)
    command = [
        sys.executable, "-m", "octopus_desktop.simulation.baselines", "--job", str(examples() / "heart"),
        "--config", run.config_json, "--model", str(model),
    ]  # fmt: skip
    for silo in federation.silos:
        command += ["--silo", f"{silo.plan.name}:patients={silo.plan.data['patients']}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the baselines failed:\n{done.stderr[-4000:]}")
    scores: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return scores


def _table(silos: list[LocalSilo], run: Any, result: dict[str, Any]) -> None:
    scores = dict(result["accuracy"])
    names = {silo.plan.name: silo.plan.organisation for silo in silos}
    rows = [("federated, data stayed at home", f"{scores['federated']:.3f}")]
    rows += [(f"{names[name]} alone", f"{scores[name]:.3f}") for name in names if name in scores]
    rows += [("trained centrally on the pooled data", f"{scores['pooled']:.3f}")]
    table(
        f"\nAccuracy on the pooled test rows of all {len(silos)} hospitals",
        ["model", "accuracy"],
        rows,
        right=["accuracy"],
    )
    table(
        "",
        ["carrier", "rounds", "bytes to silos", "bytes from silos", "seconds of training", "seconds in all"],
        [
            (
                result["carrier"],
                run.rounds,
                size(result["bytes_out"]),
                size(result["bytes_in"]),
                f"{result['training_s']:.1f}",
                f"{result['seconds']:.1f}",
            )
        ],
        right=["rounds", "bytes to silos", "bytes from silos", "seconds of training", "seconds in all"],
    )
