"""Names for what the audit record names by id. Pure over the store's dicts."""

from __future__ import annotations

import json
from typing import Any

from octopus_desktop.gui.models.store import Store
from octopus_desktop.wire.pb import local_pb2 as pb


def subject_name(store: Store, entry: pb.AuditEntry) -> str:
    """What a person calls the entry's subject: the name of today, else the one the entry wrote down, else the id."""
    subject = entry.subject
    if (run := store.runs.get(subject)) is not None:
        return f"{run.job_name} {run.job_version}"
    if (offer := store.offers.get(subject)) is not None:
        return f"{offer.offer.job_name} {offer.offer.job_version}"
    if (dataset := store.datasets.get(subject)) is not None:
        return dataset.alias
    for items in (store.nodes, store.federations, store.policies):
        if (item := items.get(subject)) is not None:
            return str(item.name)
    detail = detail_of(entry)
    return next((str(detail[key]) for key in ("job", "alias", "name", "federation") if detail.get(key)), subject)


def action_words(entry: pb.AuditEntry) -> str:
    """``dataset.registered`` as "dataset registered"."""
    return entry.action.replace(".", " ").replace("_", " ")


def detail_of(entry: pb.AuditEntry) -> dict[str, Any]:
    """The entry's detail; what is no JSON object stands under the empty name."""
    try:
        value = json.loads(entry.detail_json or "{}")
    except ValueError:
        return {"": entry.detail_json}
    return value if isinstance(value, dict) else {"": value}
