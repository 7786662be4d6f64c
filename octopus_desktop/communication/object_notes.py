"""What is under way in the bucket, on disk, so that uploads go on after a crash and nothing is left lying there.

One small file (0600) an object, beside the blobs. It may hold the object's key: who can read it can read the blob that
the key seals. A note that cannot be read counts as none, and its object is swept. Knows no store.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from octopus_desktop.system.paths import private_dir


@dataclass(slots=True, kw_only=True)
class _Note:
    kind: ClassVar[str]

    object: str  # name in the bucket
    digest: str
    size: int
    part_bytes: int

    def file_name(self) -> str:
        raise AssertionError("each kind names its own")


@dataclass(slots=True, kw_only=True)
class Made(_Note):
    """An object that this side stores with its credentials, for one or many receivers."""

    kind: ClassVar[str] = "made"
    key: str
    upload: str = ""  # multipart upload that is under way
    done: bool = False
    run_id: str = ""
    round: int = 0

    def file_name(self) -> str:
        return f"{self.kind}-{self.digest}"


@dataclass(slots=True, kw_only=True)
class Sent(_Note):
    """An object that this side, which has no credentials, sends by signed URLs."""

    kind: ClassVar[str] = "sent"
    key: str

    def file_name(self) -> str:
        return f"{self.kind}-{self.digest}"


@dataclass(slots=True, kw_only=True)
class Taken(_Note):
    """An object that a peer sends by URLs that this side signs. Its key comes with the peer's word that it is whole."""

    kind: ClassVar[str] = "taken"
    peer: str
    run_id: str
    upload: str = ""
    complete: bool = False

    def file_name(self) -> str:
        return f"{self.kind}-{self.object.rpartition('/')[2]}"


N = TypeVar("N", bound=_Note)


class ObjectNotes:
    """All notes of one side, below ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = private_dir(root)

    def save(self, note: _Note) -> None:
        place = self._root / note.file_name()
        fresh = place.with_name(f".{place.name}.new")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(asdict(note), file)
        os.replace(fresh, place)

    def drop(self, note: _Note) -> None:
        (self._root / note.file_name()).unlink(missing_ok=True)

    def sent(self, digest: str) -> Sent | None:
        return _read(Sent, self._root / f"sent-{digest}")

    def all(self, kind: type[N]) -> Iterator[N]:
        for place in sorted(self._root.glob(f"{kind.kind}-*")):
            note = _read(kind, place)
            if note is None:
                place.unlink(missing_ok=True)
            else:
                yield note


def _read(kind: type[N], place: Path) -> N | None:
    try:
        value: Any = json.loads(place.read_text(encoding="utf-8"))
        note = kind(**value)
        bytes.fromhex(value.get("key", ""))
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    fits = all(type(getattr(note, field.name)).__name__ == field.type for field in fields(note))
    return note if fits else None


__all__ = ["Made", "ObjectNotes", "Sent", "Taken"]
