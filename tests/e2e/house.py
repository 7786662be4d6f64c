"""Builders and eyes for the end-to-end tests: a small federation of real processes, and who is who among them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from octopus_desktop.cli.demo import HOSPITALS, examples, prepare_data
from octopus_desktop.cli.local_federation import LocalFederation, SiloPlan
from octopus_desktop.wire.pb.local_pb2 import LocalHelloRequest
from octopus_desktop.wire.pb.operator_pb2 import StatusRequest

APPROVE_ALL = {"effect": "approve", "job": "*"}


def make_federation(
    root: Path,
    silos: tuple[str, ...] = ("cleveland", "hungary"),
    *,
    asks: tuple[str, ...] = (),
    carrier: str = "grpc",
    route: bool = True,
) -> LocalFederation:
    """Hospitals with their data; those in ``asks`` wait for a person, the others approve by rule."""
    prepare_data(root)
    plans = [
        SiloPlan(
            name=name,
            organisation=HOSPITALS[name][0],
            administrator=HOSPITALS[name][1],
            data={"patients": root / "data" / f"{name}.csv"},
            rule=None if name in asks else APPROVE_ALL,
        )
        for name in silos
    ]
    return LocalFederation(root, "Heart Alliance", plans, carrier=carrier, route=route)


@contextmanager
def running(federation: LocalFederation) -> Iterator[LocalFederation]:
    """Start it, and whatever happens, leave no process behind."""
    try:
        federation.start()
        yield federation
    finally:
        pids = [p for p in all_processes(federation)]
        federation.stop()
        for process in pids:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue


def server_process(federation: LocalFederation) -> psutil.Process:
    return psutil.Process(federation.server().call("Operator.Status", StatusRequest()).pid)


def daemon_process(federation: LocalFederation, place: int = 0) -> psutil.Process:
    hello = LocalHelloRequest(protocol_min=1, protocol_max=1, client="test")
    return psutil.Process(federation.silos[place].api().call("Daemon.Hello", hello).pid)


def below(parent: psutil.Process, word: str) -> list[psutil.Process]:
    """Descendants whose command line holds the word."""
    found = []
    for child in parent.children(recursive=True):
        try:
            if word in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def all_processes(federation: LocalFederation) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if str(federation.root) in " ".join(process.cmdline()) and process.pid != os.getpid():
                found += [process, *process.children(recursive=True)]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def kill(process: psutil.Process) -> None:
    """SIGKILL, and wait until the kernel has it."""
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=20)


def finish(federation: LocalFederation, run_id: str) -> Any:
    """The run when it has ended, whatever happens to the server in between."""
    *_, last = federation.watch(run_id)
    return last


def heart_job() -> Path:
    return examples() / "heart"
