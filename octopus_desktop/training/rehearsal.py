"""Tries a job out before it is approved: its first task is done on the silo's data, and the answer goes nowhere.

``python -m octopus_desktop.training.rehearsal PLACE`` with the daemon's words on stdin (``wire.child``): PLACE holds
``runner.json``, whose blobs lie below PLACE. The job's first model is built in a sandbox, a task for it is put into
PLACE's inbox, and the runner does it like any other; nobody carries what it puts into the outbox. The code was not
approved, so without a sandbox nothing of it is run. No torch here.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import octopus_desktop
from octopus_desktop.aggregation import strategies
from octopus_desktop.aggregation.facts import task_config
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.storage.mailbox import Mailbox
from octopus_desktop.system.interpreters import own_code
from octopus_desktop.system.sandbox import Confinement, obstacle, switched_off
from octopus_desktop.training import initial
from octopus_desktop.training.bench import PASSED_ON
from octopus_desktop.training.runner import Runner
from octopus_desktop.training.spec import MAILBOX, RunnerSpec
from octopus_desktop.wire.canonical import canonical_json, new_id
from octopus_desktop.wire.child import ParentLink
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import TASK, BlobRef, Envelope, Task

LASTS_S = 86_400.0  # the task's lease: the parent ends a trial, not time


def prepare(place: Path, parent: ParentLink) -> None:
    """Build the model and put its task into the inbox. Raises the UserError of a job whose model cannot be built,
    OCT-RUN-SANDBOX and OCT-STRATEGY-PARAMETER."""
    spec = RunnerSpec.read(place / "runner.json")
    config = spec.run_config
    parent.say("step", step="build")
    model = _build(place, spec)
    parent.say("step", step="train")
    update, words = _strategy(config)
    task = Task(
        task="train",
        epoch=1,
        until=time.time() + LASTS_S,
        model=model,
        config_json=canonical_json(task_config(config, update, words)).decode(),
    )
    Mailbox(place / MAILBOX).accept(
        Envelope(
            id=new_id("e"),
            run_id=spec.run_id,
            round=1,
            kind=TASK,
            sender="server",
            recipient=spec.silo,
            body=task.SerializeToString(),
            blobs=[model],
        )
    )


def _strategy(config: RunConfig) -> tuple[str, dict[str, Any]]:
    """What silos send, and the strategy's words for the first round. The package's own strategy is the server's code;
    a trial does without its words."""
    if config.own_strategy:
        return config.update, {}
    strategy = strategies.make(config.strategy, config.strategy_parameters, config.update)
    return strategy.update, dict(strategy.configure(1))


def _build(place: Path, spec: RunnerSpec) -> BlobRef:
    work, wish = place / "work", place / "initial.json"
    work.mkdir(exist_ok=True)
    out = work / "initial.safetensors"
    wish.write_text(json.dumps({"package": spec.package, "trainer": spec.trainer, "config": spec.config}))
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    code = own_code(place) if spec.python else str(Path(octopus_desktop.__file__).resolve().parents[1])
    if spec.python:
        for name in ("PYTHONHOME", "VIRTUAL_ENV"):
            environment.pop(name, None)
    if spec.python or "-packages" not in code:
        environment["PYTHONPATH"] = code
    environment |= {"HOME": str(work), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    readable = (wish, Path(spec.package), *map(Path, spec.python_paths), *((Path(code),) if spec.python else ()))
    confined = Confinement(readable=readable, writable=(work,), home=work)
    words = initial.command(wish, out, spec.python)
    if not switched_off():
        why = asyncio.run(obstacle(confined, environment, "numpy", spec.python))
        if why:
            raise UserError(
                "OCT-RUN-SANDBOX",
                "The job was not tried out: its code cannot be confined here.",
                why,
                "Set the sandbox up first; code that nobody approved runs in nothing less.",
            )
        words = confined.command(words, environment)
    try:
        done = subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=initial.TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            "OCT-JOB-TRAINER",
            "The job's first model could not be built.",
            f"Its process did not end within {initial.TIMEOUT_S:.0f} s.",
            "Ask the author what build_model waits for; it has no network.",
        ) from error
    digest, size = initial.outcome(done.returncode, done.stdout, done.stderr)
    BlobStore(Path(spec.blobs)).adopt(out)
    return BlobRef(digest=digest, size=size)


def main(arguments: list[str]) -> None:
    parent, place = ParentLink(), Path(arguments[0])
    try:
        prepare(place, parent)
        asyncio.run(Runner(place, parent).run())
    except UserError as error:
        said = {"code": error.code, "what": error.what, "why": error.why, "next_step": error.next_step}
        parent.say("fault", fault=said)
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
