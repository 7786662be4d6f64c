"""The window's connection to the daemon: one asyncio thread, signals out. Knows no widget."""

from octopus_desktop.gui.client.client import PROTOCOL, Call, Client, Subscription

__all__ = ["PROTOCOL", "Call", "Client", "Subscription"]
