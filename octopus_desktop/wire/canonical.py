"""One byte form for what gets digested and signed. Knows nothing of what the values mean."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Any

_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys, no spaces and no NaN: equal values give equal bytes.

    Raises:
        ValueError: the value holds NaN or infinity.
        TypeError: the value is not made of JSON types.
    """
    return _ENCODE(value).encode()


def digest(data: bytes) -> str:
    """Lower-case hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


def json_digest(value: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON."""
    return digest(canonical_json(value))


def new_id(prefix: str = "") -> str:
    """A random 96-bit id, safe in file names and topics: ``prefix`` and 20 base-32 characters."""
    return prefix + "".join(secrets.choice("0123456789abcdefghjkmnpqrstvwxyz") for _ in range(20))


def fingerprint(key: bytes) -> str:
    """A public key or certificate as people compare it: the first 16 bytes of its SHA-256, in groups of four."""
    text = hashlib.sha256(key).hexdigest()[:32]
    return " ".join(text[i : i + 4] for i in range(0, 32, 4))


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from a run's seed and whatever else names the place: equal in simulation and deployment.

    By convention: ``derive_seed(run_seed, "init")`` for the first model, ``derive_seed(run_seed, round, silo, rank)``
    for a worker's round.
    """
    raw = hashlib.sha256(canonical_json([str(p) for p in parts])).digest()
    return int.from_bytes(raw[:8], "big") >> 1
