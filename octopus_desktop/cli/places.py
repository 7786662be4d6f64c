"""``NODE=PATH`` on the command line: where a dataset or a runtime is on the silo's further nodes."""

from __future__ import annotations

from typing import Any

from octopus_desktop.cli.common import Api, find, request_id, snapshot, when
from octopus_desktop.wire.errors import UserError


def told_places(api: Api, given: tuple[str, ...]) -> list[tuple[str, str]]:
    """(node's id, path there) of each. Raises OCT-CLI-USAGE, OCT-NODE-UNKNOWN."""
    told = []
    nodes = snapshot(api).nodes if given else []
    for text in given:
        name, equals, path = text.partition("=")
        if not equals:
            raise UserError(
                "OCT-CLI-USAGE", f"{text!r} is not NODE=PATH.", "", "Write it like gpu-2=/data/patients.csv."
            )
        told.append((find(nodes, name, "node", "name").id, path))
    return told


def put_place(api: Api, method: str, entity_id: str, node: str, path: str) -> Any:
    """Tell the daemon; the changed dataset or runtime."""
    from octopus_desktop.wire.pb.local_pb2 import PlaceRequest

    request = PlaceRequest(id=entity_id, node=node, path=path, request_id=request_id())
    return api.call(method, request, timeout=None)


def shown_places(entity: Any, api: Api) -> list[tuple[str, str]]:
    """Lines for people."""
    if not entity.places:
        return []
    names = {node.id: node.name for node in snapshot(api).nodes}
    return [
        (
            f"on {names.get(place.node, place.node)}",
            f"{place.path}, {place.state} at {when(place.checked_at)}" + (f": {place.error}" if place.error else ""),
        )
        for place in entity.places
    ]
