"""``python -m octopus_desktop.simulation.helper``: one more process of a simulation, with silos of its own.

Needs torch. JSON lines on stdin: first the run, then places in memory, then tasks; one line on stdout for each. It
ends with stdin.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.simulation.cohort import Here, Outcome, plain_outcome, read_tasks
from octopus_desktop.simulation.memory import Places
from octopus_desktop.training.spec import DataSource
from octopus_desktop.wire.tensors import read_layout


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this one's stdin
    told = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a print in foreign code must not mix with the answers
    lines: Iterator[bytes] = iter(sys.stdin.buffer.readline, b"")
    first = json.loads(next(lines))
    work = Path(first["work"])
    data = {name: {s["alias"]: DataSource(**s) for s in sources} for name, sources in first["data"].items()}
    silos = Here(Path(first["package"]), first["trainer"], RunConfig.from_dict(first["config"]), data, work)
    from octopus_desktop.training import engine  # noqa: F401  ahead of the first task, while the parent does the same

    def say(value: dict[str, Any]) -> None:
        told.write(json.dumps(value).encode() + b"\n")
        told.flush()

    def done(outcome: Outcome) -> None:
        say(plain_outcome(outcome))

    try:
        for line in lines:
            value = json.loads(line)
            if "places" in value:
                if value["places"]:
                    path, count, model = value["places"]
                    silos.places = Places(read_layout(Path(model)), int(count), Path(path))
                say({})
            else:
                silos.run(read_tasks(value), done)
    finally:
        silos.close()


if __name__ == "__main__":
    main()
    sys.stderr.flush()
    os._exit(0)  # whatever the package left running ends with the process
