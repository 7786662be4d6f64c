"""What every page receives from ``app.py``: the few things that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from octopus_desktop.gui.client import Client
from octopus_desktop.gui.commands import Commands
from octopus_desktop.gui.models.store import Store
from octopus_desktop.gui.settings import Settings
from octopus_desktop.gui.theme import Theme
from octopus_desktop.wire.errors import UserError


@dataclass(kw_only=True)
class Context:
    """``open(kind, id)`` shows an item (run | offer | node | dataset | federation | policy) or, with kind "page", a
    page by its key. ``toast(level, text)``: level is ok | info | warning | danger. ``show_error(UserError)`` tells a
    failed act. The three are put in place by the window."""

    client: Client
    store: Store
    theme: Theme
    settings: Settings
    commands: Commands
    home: Path
    open: Callable[[str, str], None] = lambda kind, item_id: None
    toast: Callable[[str, str], None] = lambda level, text: None
    show_error: Callable[[UserError], None] = lambda error: None
