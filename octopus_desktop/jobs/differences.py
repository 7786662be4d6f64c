"""In which settings runs differ. Pure; for command line and window alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from octopus_desktop.jobs.manifest import RunConfig


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Dotted setting to its value in each configuration, for those that are not all the same. A setting that one of
    them leaves out stands at its default there; None where it has none."""
    flat, defaults = [_flat(config) for config in configs], _flat(_defaults())
    keys = sorted({key for one in flat for key in one})
    found = {key: [one.get(key, defaults.get(key)) for one in flat] for key in keys}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def value_text(value: Any) -> str:
    """One setting's value, short enough for a table's cell."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, str) and len(value) == 64:
        return value[:12] + "…"
    return str(value) if value != "" else "none"


def _defaults() -> dict[str, Any]:
    plain = RunConfig()
    known = {name: getattr(plain, name) for name in RunConfig.__dataclass_fields__}
    training = {name: getattr(plain.training, name) for name in plain.training.__dataclass_fields__}
    return {**known, "training": training, "resources": plain.to_dict()["resources"]}


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat.update(_flat(item, f"{before}{key}."))
        else:
            flat[before + key] = list(item) if isinstance(item, tuple) else item
    return flat
