"""What an agent looks at on its machine when the daemon asks: data at a path, a Python environment. Knows no link."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from octopus_desktop.system import interpreters
from octopus_desktop.training.presence import check_data
from octopus_desktop.training.spec import DataSource
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.local_pb2 import NodePlace
from octopus_desktop.wire.pb.node_pb2 import NodeAnswer, NodeAsk


async def look(ask: NodeAsk) -> NodeAnswer:
    """The answer; what is wrong there is its fault."""
    try:
        place = await asyncio.to_thread(_data if ask.alias else _environment, ask)
    except UserError as error:
        return NodeAnswer(id=ask.id, fault=error.to_fault())
    place.state, place.checked_at = "ok", round(time.time(), 3)
    return NodeAnswer(id=ask.id, place=place)


def _data(ask: NodeAsk) -> NodePlace:
    if not Path(ask.path).is_absolute():
        raise UserError(
            "OCT-DATA-MISSING",
            f"{ask.path!r} is no absolute path.",
            "The node does not know from where it is meant.",
            "Give the whole path on that node, beginning with the root.",
        )
    check_data(DataSource(alias=ask.alias, path=ask.path, kind=ask.kind, digest=ask.digest))
    return NodePlace(path=ask.path)


def _environment(ask: NodeAsk) -> NodePlace:
    if not ask.path:
        python, facts = None, interpreters.own()
    else:
        place = Path(ask.path)
        python = interpreters.interpreter(place) if place.is_absolute() else None
        if python is None:
            raise broken(f"There is no Python at {ask.path}.", "Give the folder of a virtual environment there.")
        facts = interpreters.examine(python, whole=True)
        if facts.fault:
            raise broken(facts.fault, "Install what is missing into it, then say again where it is.")
    return NodePlace(
        path=str(python or ""), python=facts.python, torch=facts.torch, cuda=facts.cuda, packages=facts.packages
    )


def broken(why: str, next_step: str) -> UserError:
    return UserError("OCT-RUNTIME-BROKEN", "The environment on this node cannot be used.", why, next_step)
