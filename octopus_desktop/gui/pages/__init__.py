"""The pages of the window, in the order of the rail. Each is one file; this is its one registration."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Final

from PySide6.QtCore import QCoreApplication
from PySide6.QtWidgets import QWidget

from octopus_desktop.gui.context import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSpec:
    """``key`` names the module below ``pages``; ``name`` its class; ``kinds`` what ``show_item`` takes."""

    key: str
    name: str
    icon: str
    text: str
    shortcut: str
    kinds: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return QCoreApplication.translate("pages", self.text)

    def make(self, context: Context) -> QWidget:
        """Import and build the page; only now does its code load."""
        made: QWidget = getattr(import_module(f"{__name__}.{self.key}"), self.name)(context)
        return made

    @property
    def exists(self) -> bool:
        return find_spec(f"{__name__}.{self.key}") is not None


_ALL: Final = (
    PageSpec(key="overview", name="OverviewPage", icon="overview", text="Overview", shortcut="Ctrl+1"),
    PageSpec(
        key="approvals", name="ApprovalsPage", icon="approvals", text="Approvals", shortcut="Ctrl+2", kinds=("offer",)
    ),
    PageSpec(key="runs", name="RunsPage", icon="runs", text="Runs", shortcut="Ctrl+3", kinds=("run",)),
    PageSpec(key="nodes", name="NodesPage", icon="nodes", text="Nodes", shortcut="Ctrl+4", kinds=("node",)),
    PageSpec(key="runtimes", name="RuntimesPage", icon="code", text="Runtimes", shortcut="Ctrl+0", kinds=("runtime",)),
    PageSpec(
        key="datasets", name="DatasetsPage", icon="datasets", text="Datasets", shortcut="Ctrl+5", kinds=("dataset",)
    ),
    PageSpec(
        key="federations",
        name="FederationsPage",
        icon="federations",
        text="Federations",
        shortcut="Ctrl+6",
        kinds=("federation",),
    ),
    PageSpec(key="policy", name="PolicyPage", icon="policy", text="Policy", shortcut="Ctrl+7", kinds=("policy",)),
    PageSpec(key="audit", name="AuditPage", icon="audit", text="Audit", shortcut="Ctrl+8", kinds=("audit",)),
    PageSpec(key="logs", name="LogsPage", icon="logs", text="Logs", shortcut="Ctrl+9"),
    PageSpec(key="settings", name="SettingsPage", icon="settings", text="Settings", shortcut="Ctrl+,"),
)


def pages() -> tuple[PageSpec, ...]:
    """The pages that are installed."""
    return tuple(spec for spec in _ALL if spec.exists)
