"""Started by torchrun: several runs of the digits, one after the other; rank 0 prints what came of them as JSON.

``python -m tests.simulation.spread_program WORK WISHES``; with WISHES "silent" rank 1 stops in the middle.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from octopus_desktop.simulation import group as groups
from octopus_desktop.simulation import layout
from octopus_desktop.simulation.follower import follow
from octopus_desktop.simulation.jobs import open_job
from octopus_desktop.simulation.simulator import simulate
from octopus_desktop.wire.errors import UserError

DIGITS = Path(__file__).parents[2] / "resources" / "examples" / "digits"


def main() -> None:
    work, wishes = Path(sys.argv[1]), sys.argv[2]
    if wishes == "silent":
        groups.BEAT_S, groups.SILENT_S = 0.2, 2.0
    group = groups.Group()
    work = work / f"rank-{group.rank}"
    with open_job(DIGITS, work) as job:
        data = layout.choose(job, "12", [], "dirichlet:0.5", work)
        if group.rank:
            if wishes == "silent":
                (work.parent / "stopped").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGSTOP)
            follow(group, job, data, work)
            return
        if wishes == "silent":
            simulate(job, data, work=work / "run", group=group)
        told = []
        for number, (wish, more) in enumerate(json.loads(wishes)):
            try:
                result = simulate(job, data, wish, work=work / f"run-{number}", group=group, **more)
                told.append({"digest": result.digest, "model": str(result.model)})
            except UserError as error:
                told.append({"code": error.code})
        group.leave()
        print(json.dumps({"runs": told, "alone": "RANK" not in os.environ}))


if __name__ == "__main__":
    main()
