"""What an approver signs, as bytes, and whether such a signature covers a launch. Pure; knows no keys' whereabouts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from octopus_desktop.wire.canonical import canonical_json

STATEMENT_DOMAIN = "octopus-desktop/approval/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Under what the administrator lets a run happen. Zero or empty means no limit of its own.

    ``hours_of_day``: pairs of local hours [from, to) in which training may run. ``nodes``: ids of allowed nodes.
    ``max_bytes_out`` counts update bytes; ``expires_at`` is in Unix seconds. ``runtime``: id of the Python environment
    that the job trains in, "" for the built-in one; ``slurm``: id of the Slurm profile in whose allocation all of it is
    trained, "" for the silo's own machines. Both are left out of the signed bytes when empty.
    """

    datasets: dict[str, str] = field(default_factory=dict)  # the job's alias -> the silo's dataset id
    nodes: tuple[str, ...] = ()
    hours_of_day: tuple[tuple[int, int], ...] = ()
    max_rounds: int = 0
    max_hours: float = 0.0
    max_bytes_out: int = 0
    max_epsilon: float = 0.0
    expires_at: float = 0.0
    new_versions_need_decision: bool = True
    runtime: str = ""
    slurm: str = ""

    def to_dict(self) -> dict[str, Any]:
        value = asdict(self)
        for name in ("runtime", "slurm"):
            if not value[name]:
                del value[name]
        return value

    def to_json(self) -> str:
        return canonical_json(self.to_dict()).decode()

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Conditions:
        value = dict(value)
        value["nodes"] = tuple(value.get("nodes", ()))
        value["hours_of_day"] = tuple((int(a), int(b)) for a, b in value.get("hours_of_day", ()))
        return cls(**value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """The one thing that makes a run lawful: a verdict on exactly these bytes, this configuration, this data, these
    conditions. ``data_scope``: the job's alias -> the dataset's content digest. ``verdict``: approved | rejected |
    changes_requested | revoked."""

    run_id: str
    verdict: str
    package_digest: str
    config_digest: str
    data_scope: dict[str, str] = field(default_factory=dict)
    conditions: Conditions = field(default_factory=Conditions)
    reason: str = ""
    decided_by: str = ""
    decided_at: float = 0.0

    def to_bytes(self) -> bytes:
        """Canonical bytes, domain-separated: what the Ed25519 signature is over."""
        value = {**asdict(self), "conditions": self.conditions.to_dict()}
        value["domain"] = STATEMENT_DOMAIN
        return canonical_json(value)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Statement:
        """Raises ValueError when the bytes are no canonical statement."""
        try:
            value = json.loads(raw)
            if value.pop("domain", None) != STATEMENT_DOMAIN:
                raise ValueError("not an approval statement")
            statement = cls(**{**value, "conditions": Conditions.from_dict(value["conditions"])})
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not an approval statement: {error}") from error
        if statement.to_bytes() != raw:
            raise ValueError("not in canonical form")
        return statement
