"""What every silo's end does around its connections: dial again with full jitter, and tell the owner of the link's
state. Knows no carrier."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from octopus_desktop.communication.contract import BACKOFF_FIRST_S, BACKOFF_MOST_S, LinkPhase, LinkState, MailOwner
from octopus_desktop.wire.errors import UserError

HEALTHY_S = 5.0  # a link that lived this long was healthy: its loss is answered by dialling at once
FOR_GOOD = ("OCT-CERT-REVOKED",)
RARELY = (  # dialling often cannot help
    "OCT-LINK-REPLACED",
    "OCT-LINK-PROTOCOL",
    "OCT-LINK-SEAL",
    "OCT-CLOCK-OFF",
    "OCT-ENROL-ROLE",
    "OCT-CERT-EXPIRED",
)


class Shown:
    """One peer's link state, and telling the owner of its changes.

    Attributes:
        state: as it is now.
        up_at: monotonic time since when the link is up; 0.0 while it is not.
    """

    def __init__(self, owner: MailOwner, peer: str) -> None:
        self._owner = owner
        self.state = LinkState(peer=peer, phase=LinkPhase.CONNECTING, since=time.time())
        self.up_at = 0.0

    def show(self, *, phase: LinkPhase | None = None, **changes: Any) -> None:
        """Change the state and tell the owner. ``fault`` is cleared by each new phase that does not name one."""
        if phase is not None and phase is not self.state.phase:
            changes = {"phase": phase, "since": time.time(), "fault": None, **changes}
            self.up_at = time.monotonic() if phase is LinkPhase.UP else self.up_at
        self.state = dataclasses.replace(self.state, **changes)
        self._owner.link_changed(self.state)

    def clock(self, seconds: float) -> None:
        """By how many seconds the peer's clock is ahead. The owner is told with the round trip that follows."""
        self.state = dataclasses.replace(self.state, clock_s=seconds)

    def moved(self, incoming: int, outgoing: int, resumed: int = 0) -> None:
        """Bytes that came in, went out, and need not be sent again. The owner is not told of each."""
        state = self.state
        self.state = dataclasses.replace(
            state,
            bytes_in=state.bytes_in + incoming,
            bytes_out=state.bytes_out + outgoing,
            bytes_resumed=state.bytes_resumed + resumed,
        )


async def _apart(connection: Callable[[], Awaitable[UserError]]) -> UserError:
    """The connection in a task of its own: one that ends at the moment of a cancellation may tell its end in place of
    it, and on Python 3.11 a task group that was left by an error keeps its task marked as cancelled."""

    async def run() -> UserError:
        return await connection()

    task = asyncio.create_task(run())
    try:
        await asyncio.wait((task,))
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled():
                task.exception()  # seen; the cancellation counts


async def keep_dialling(connection: Callable[[], Awaitable[UserError]], shown: Shown) -> None:
    """Make one connection after the other, until cancelled or refused for good.

    Args:
        connection: one connection, from dialling to its end; shows its phases and returns why it ended.
    """
    most = BACKOFF_FIRST_S
    try:
        while True:
            shown.show(phase=LinkPhase.CONNECTING, fault=shown.state.fault)
            shown.up_at = 0.0
            fault = await _apart(connection)
            if fault.code in FOR_GOOD:
                shown.show(phase=LinkPhase.REVOKED, fault=fault)
                return
            shown.show(phase=LinkPhase.DOWN, fault=fault)
            if shown.up_at and time.monotonic() - shown.up_at > HEALTHY_S and fault.code not in RARELY:
                most = BACKOFF_FIRST_S
                continue
            most = BACKOFF_MOST_S if fault.code in RARELY else most
            await asyncio.sleep(random.uniform(0, most))  # full jitter: silos do not come back all at once
            most = min(2 * most, BACKOFF_MOST_S)
    finally:
        if shown.state.phase is not LinkPhase.REVOKED:
            shown.show(phase=LinkPhase.DOWN)
