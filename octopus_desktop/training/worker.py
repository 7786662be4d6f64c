"""One DDP worker: runs the researcher's code on the tasks that the runner sends, and stays warm between them.

``python -m octopus_desktop.training.worker RUN_DIR``, alone or under torchrun. It talks to the runner alone, through
the socket named by OCTOPUS_WORKER_SOCKET, and ends with it. Knows neither mailbox nor leases nor keys.
"""

from __future__ import annotations

import gc
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from octopus_desktop.system.sandbox import scope_itself
from octopus_desktop.training import frames
from octopus_desktop.training.spec import RunnerSpec
from octopus_desktop.wire.errors import UserError

REPORT_EVERY_S = 0.1


class Link:
    """The worker's end of the socket. Reads on a thread of its own; when the runner is gone, the worker is too."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._lock = threading.Lock()
        self.tasks: queue.SimpleQueue[frames.Frame] = queue.SimpleQueue()
        self.passes: Callable[[], int] = lambda: 0  # through the model, in this task so far
        threading.Thread(target=self._read, name="runner-link", daemon=True).start()

    def say(self, word: str, **fields: Any) -> None:
        with self._lock:
            self._socket.sendall(frames.pack(word, **fields))

    def _read(self) -> None:
        try:
            while frame := frames.receive(self._socket):
                if frame["word"] == "where":  # the main thread may be waiting in a step
                    self.say("place", passes=self.passes())
                else:
                    self.tasks.put(frame)
        finally:  # an end is also a reset, when the runner went with a word of ours unread
            os._exit(0)


class LinkReporter:
    """Sends the engine's live reports on, progress at most ten times a second."""

    def __init__(self, link: Link, rank: int) -> None:
        self._link, self._rank, self._last = link, rank, 0.0

    def metrics(self, round: int, task: str, step: int, values: Mapping[str, float]) -> None:
        now = time.time()
        points = [[f"{task}/{name}", f"worker {self._rank}", round, step, value, now] for name, value in values.items()]
        self._link.say("metrics", points=points)

    def progress(self, round: int, task: str, fraction: float, epoch: int) -> None:
        if self._rank == 0 and (fraction in (0.0, 1.0) or time.monotonic() - self._last >= REPORT_EVERY_S):
            self._last = time.monotonic()
            self._link.say("progress", round=round, task=task, fraction=fraction)

    def log(self, level: str, text: str) -> None:
        self._link.say("log", level=level, text=text)

    def span(self, round: int, step: str, start: float, end: float) -> None:
        self._link.say("span", lane=f"worker {self._rank}", step=step, round=round, start=start, end=end)


def fault(error: UserError) -> dict[str, str]:
    """An error as the runner gets it. ``public`` is what may leave the silo: an exception's message may quote data."""
    public = error.public() if hasattr(error, "public") else f"{error.what} {error.why}"
    return {"code": error.code, "what": error.what, "why": error.why, "next": error.next_step, "public": public}


def work(run_dir: Path) -> None:
    """Serve tasks until the runner goes."""
    spec = RunnerSpec.read(run_dir / "runner.json")
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if spec.spans:  # the process group's network is shared: what is no file there is closed as well
        scope_itself()
    link = Link(os.environ[frames.SOCKET_VARIABLE])
    link.say("hello", rank=rank, pid=os.getpid(), restart=os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    import torch

    from octopus_desktop.training.engine import Engine, TaskInput

    here = int(os.environ.get("LOCAL_RANK", rank))
    device = spec.devices[here % len(spec.devices)] if spec.devices else "cpu"
    if size > 1:
        torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    number = 0

    def trained(passes: int) -> None:
        link.say("trained", number=number, passes=passes)

    try:
        engine = Engine(
            Path(spec.package),
            spec.trainer,
            spec.run_config,
            spec.silo,
            spec.sources,
            rank=rank,
            world_size=size,
            device=device,
            threads=spec.threads,
            report=LinkReporter(link, rank),
            shares=spec.shares,
            trained=trained if size > 1 else None,
        )
        link.passes = lambda: engine.passes
        engine.warm_up()
    except UserError as error:
        link.say("failed", fault=fault(error))
        link.tasks.get()  # stays until the runner ends it: starting again would fail in the same way
        return
    link.say("ready")
    settled = False
    while True:
        told = link.tasks.get()
        number = told["number"]
        task = TaskInput(
            task=told["task"],
            round=told["round"],
            rounds=told["rounds"],
            model=Path(told["model"]),
            config=told["config"],
            shared={name: Path(place) for name, place in told.get("shared", {}).items()},
            keep=Path(told["keep"]) if told.get("keep") else None,
        )
        try:
            result = engine.run(task, Path(told["out"]), digest=False)  # the parent trusts its own reading alone
        except UserError as error:
            link.say("error", number=told["number"], fault=fault(error))
            if size > 1 or error.code == "OCT-RUN-MEMORY":
                # The ranks no longer agree on where they are, or memory is to be free for certain: a fresh group.
                raise SystemExit(1) from error
            continue
        link.say(
            "result",
            number=told["number"],
            examples=result.examples,
            steps=result.steps,
            metrics=result.metrics,
            train_seconds=result.train_seconds,
            spans=[list(span) for span in result.spans],
        )
        if not settled:
            settled = True
            gc.collect()
            gc.freeze()  # torch's hundred thousand objects: each later collection would look at all of them, 0.2 s


def main(arguments: list[str]) -> None:
    code = 0
    try:
        work(Path(arguments[0]))
    except SystemExit:
        code = 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    if "torch" in sys.modules and sys.modules["torch"].distributed.is_initialized():
        gc.collect()  # a live DDP object behind a destroyed group aborts the interpreter's exit
        sys.modules["torch"].distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
