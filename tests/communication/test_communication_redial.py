"""Dialling again and again, and its end."""

from __future__ import annotations

import asyncio

import pytest

from octopus_desktop.communication.contract import LinkPhase, LinkState
from octopus_desktop.communication.links import link_down
from octopus_desktop.communication.redial import Shown, keep_dialling
from octopus_desktop.wire.errors import UserError


class Owner:
    def link_changed(self, state: LinkState) -> None:
        """Nobody looks."""


async def test_a_cancellation_that_a_call_takes_for_its_own_end_still_ends_the_dialling() -> None:
    begun, calls = asyncio.Event(), 0

    async def connection() -> UserError:
        nonlocal calls
        calls += 1
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return link_down("there", "The call ended.")  # as gRPC may, when both come at one moment
        raise AssertionError

    shown = Shown(Owner(), "there")  # type: ignore[arg-type]
    work = asyncio.create_task(keep_dialling(connection, shown))
    await begun.wait()
    work.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await work
    assert calls == 1 and shown.state.phase is LinkPhase.DOWN


async def test_a_connection_that_ends_by_an_error_among_its_tasks_is_made_again() -> None:
    """Python 3.11 leaves the waiting task marked as cancelled then: that must not pass for an end of the dialling."""
    calls, again = 0, asyncio.Event()

    async def fails() -> None:
        raise ConnectionError

    async def connection() -> UserError:
        nonlocal calls
        calls += 1
        if calls == 2:
            again.set()
            await asyncio.Event().wait()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
        except* ConnectionError:
            pass
        return link_down("there", "It refused.")

    work = asyncio.create_task(keep_dialling(connection, Shown(Owner(), "there")))  # type: ignore[arg-type]
    async with asyncio.timeout(20):
        await again.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
