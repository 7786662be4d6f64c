"""The run's first global model, built by the package's own code in a process of its own.

``python -m octopus_desktop.training.initial SPEC OUT``: SPEC is JSON with ``package``, ``trainer``, ``config`` (a
coordinator.json will do), OUT the tensor file to write. The last line of stdout is JSON: ``{"digest", "size"}``, or
``{"code", "what", "why", "next_step"}`` with exit code 3. Callers without torch use ``command`` and ``outcome``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from octopus_desktop.system.interpreters import own_code
from octopus_desktop.wire.errors import UserError

FAILED = 3
TIMEOUT_S = 600.0


def command(spec: Path, out: Path, python: str = "") -> list[str]:
    """What to start; with another interpreter than this one, which finds this package."""
    return [python or sys.executable, "-m", "octopus_desktop.training.initial", str(spec), str(out)]


def environment() -> dict[str, str]:
    """The environment to start it in: one thread, like every worker's build."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def outcome(returncode: int, stdout: bytes, stderr: bytes = b"") -> tuple[str, int]:
    """(digest, size) of the model. Raises the UserError that the process told, or OCT-JOB-TRAINER when it died."""
    lines = stdout.decode(errors="replace").strip().splitlines()
    try:
        told = json.loads(lines[-1]) if lines else {}
    except ValueError:
        told = {}
    if returncode == 0 and "digest" in told:
        return str(told["digest"]), int(told["size"])
    if returncode == FAILED and "code" in told:
        raise UserError(told["code"], told["what"], told["why"], told["next_step"])
    raise UserError(
        "OCT-JOB-TRAINER",
        "The job's first model could not be built.",
        f"Its process ended with code {returncode}: {stderr.decode(errors='replace').strip()[-500:] or 'no message'}.",
        "Try the package with `octopus simulate`, and correct it.",
    )


def build(spec: Path, out: Path, python: str = "") -> tuple[str, int]:
    """Start it, wait for it, and give (digest, size)."""
    given = environment() | ({"PYTHONPATH": own_code(out.parent)} if python else {})
    try:
        done = subprocess.run(
            command(spec, out, python), env=given, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            "OCT-JOB-TRAINER",
            "The job's first model could not be built.",
            f"Its process did not end within {TIMEOUT_S:.0f} s.",
            "Look for an endless loop or a download in build_model.",
        ) from error
    return outcome(done.returncode, done.stdout, done.stderr)


def main(arguments: list[str]) -> int:
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a print in foreign code must not mix with the answer
    spec, out = json.loads(Path(arguments[0]).read_text()), Path(arguments[1])
    import torch

    from octopus_desktop.jobs.manifest import RunConfig
    from octopus_desktop.training.engine import initial_model

    torch.set_num_threads(1)
    temporary = out.with_name(out.name + ".new")
    try:
        written = initial_model(Path(spec["package"]), spec["trainer"], RunConfig.from_dict(spec["config"]), temporary)
        os.replace(temporary, out)
    except UserError as error:
        temporary.unlink(missing_ok=True)
        said = {"code": error.code, "what": error.what, "why": error.why, "next_step": error.next_step}
        print(json.dumps(said), file=told, flush=True)
        return FAILED
    print(json.dumps({"digest": written.digest, "size": written.size}), file=told, flush=True)
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # whatever the package left running ends with the process
