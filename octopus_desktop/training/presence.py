"""Whether the data that was approved is here, on another machine than that where it was registered. No torch here."""

from __future__ import annotations

from pathlib import Path

from octopus_desktop.storage.content import content_digest
from octopus_desktop.training.spec import DataSource
from octopus_desktop.wire.errors import UserError


def check_data(source: DataSource) -> None:
    """Raises OCT-DATA-MISSING, OCT-DATA-CHANGED."""
    path = Path(source.path)
    try:
        digest, _ = content_digest(path, source.kind)
    except OSError as error:
        raise UserError(
            "OCT-DATA-MISSING",
            f"The data {source.alias!r} is not on this node.",
            f"{path} cannot be read: {error.strerror or error}.",
            "Put a copy, or the shared folder, there, or say where it is: octopus dataset place.",
        ) from error
    if digest != source.digest:
        raise UserError(
            "OCT-DATA-CHANGED",
            f"The data {source.alias!r} on this node is not what was approved.",
            f"{path} holds something else.",
            "Bring this node's copy up to date.",
        )
