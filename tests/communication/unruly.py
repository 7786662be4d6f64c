"""How a carrier that stands on the message link plugs into the conformance suites: its wires, made unruly.

A test file subclasses ``MessageWiring`` and makes the two ends (``make_server_end``, ``make_silo_end``, each a
``MessageServerEnd`` or ``MessageSiloEnd``) and a server in a process of its own (``peer``). The wires of both ends are
wrapped here, so that every message carrier can be disturbed, frozen, slowed and cut alike; where a carrier has a better
way to be cut (a broker's TCP connection, a killed endpoint), it overrides ``cut``.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.links import link_down
from octopus_desktop.communication.message_server import MessageServerEnd
from octopus_desktop.communication.message_silo import MessageSiloEnd
from octopus_desktop.communication.parties import ServerParty, SiloParty
from octopus_desktop.communication.wires import Gone, Lane, Receive, Wire
from tests.communication.mischief import Mischief
from tests.communication.parts import Keys, Owner
from tests.communication.peers import PeerProcess

HELD_S = 0.05  # a reordered message without a successor


class Weather:
    """What all unruly wires of one test suffer.

    Attributes:
        mischief: befalls single messages.
        frozen: nothing passes, and nobody is told.
        rate: bytes a second of one wire and lane; 0 for no bound.
        watch: told of each message as it is sent: source, target, lane, message.
    """

    def __init__(self) -> None:
        self.mischief: Mischief | None = None
        self.frozen = False
        self.rate = 0
        self.watch: Callable[[str, str, Lane, bytes], None] = lambda source, target, lane, message: None


class Unruly:
    """Implements ``Wire`` over another one, which it disturbs."""

    def __init__(self, wire: Wire, weather: Weather, name: str) -> None:
        self.wire, self.weather, self.name = wire, weather, name
        self._snapped: asyncio.Future[Exception] | None = None
        self._held: dict[tuple[str, Lane], bytes] = {}

    @property
    def message_bytes(self) -> int:
        return self.wire.message_bytes

    async def open(self, receive: Receive, gone: Gone) -> None:
        await self.wire.open(receive, gone)
        self._snapped = asyncio.get_running_loop().create_future()

    async def send(self, peer: str, lane: Lane, message: bytes) -> None:
        if self._snapped is not None and self._snapped.done():
            raise link_down("The wire", "The test cut it.")
        self.weather.watch(self.name, peer, lane, message)
        if self.weather.frozen:
            return
        if self.weather.rate:
            await asyncio.sleep(len(message) / self.weather.rate)
        mischief = self.weather.mischief
        if mischief is None or not mischief.strikes():
            await self.wire.send(peer, lane, message)
            await self._let_go(peer, lane)
        elif mischief.kind == "double":
            await self.wire.send(peer, lane, message)
            await self.wire.send(peer, lane, message)
        elif mischief.kind == "corrupt":
            await self.wire.send(peer, lane, mischief.corrupted(message))
        elif mischief.kind == "reorder":
            await self._let_go(peer, lane)
            self._held[peer, lane] = message
            asyncio.get_running_loop().call_later(HELD_S, self._later, peer, lane)

    async def broken(self) -> Exception:
        assert self._snapped is not None
        inner = asyncio.ensure_future(self.wire.broken())
        try:
            await asyncio.wait((inner, self._snapped), return_when=asyncio.FIRST_COMPLETED)
            return (inner if inner.done() else self._snapped).result()
        finally:
            inner.cancel()

    async def close(self) -> None:
        await self.wire.close()

    def snap(self) -> None:
        if self._snapped is not None and not self._snapped.done():
            self._snapped.set_result(link_down("The wire", "The test cut it."))

    async def _let_go(self, peer: str, lane: Lane) -> None:
        if held := self._held.pop((peer, lane), None):
            await self.wire.send(peer, lane, held)

    def _later(self, peer: str, lane: Lane) -> None:
        if self._snapped is not None and not self._snapped.done():
            task = asyncio.ensure_future(self._let_go(peer, lane))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())


class MessageWiring:
    """Implements ``conformance.Wiring`` for a message carrier. See the module."""

    def __init__(self, root: Path, keys: Keys | None = None) -> None:
        self.root, self.keys, self.weather = root, keys or Keys(), Weather()
        self.unruly: list[Unruly] = []
        self.server = Owner(root / "server", SERVER, self.keys)

    @abstractmethod
    def make_server_end(self, party: ServerParty, owner: Owner, **options: Any) -> MessageServerEnd: ...

    @abstractmethod
    def make_silo_end(self, party: SiloParty, owner: Owner, **options: Any) -> MessageSiloEnd: ...

    @abstractmethod
    async def peer(self, root: Path) -> PeerProcess:
        """A server of this carrier in a process of its own, with its state below ``root``; silos reach it from now on.
        The server of this process was stopped before."""
        ...

    async def start(self, **options: Any) -> None:
        self.server_end = self.make_server_end(
            self.keys.server_party(), self.server, version="1", boot_id="s", **options
        )
        self.server_end.wire = self._wrapped(self.server_end.wire, SERVER)
        await self.server_end.start()

    async def stop(self) -> None:
        await self.server_end.stop(1)

    def owner(self, name: str) -> Owner:
        self.keys.silo(name)
        return Owner(self.root / name, name, self.keys)

    def silo_end(self, owner: Owner, *, keys: Keys | None = None, **options: Any) -> MessageSiloEnd:
        party = (keys or self.keys).silo_party(owner.name)
        end = self.make_silo_end(party, owner, version="1", boot_id="c", **options)
        end.wire = self._wrapped(end.wire, owner.name)
        return end

    def cut(self) -> None:
        for wire in self.unruly:
            wire.snap()

    def disturb(self, mischief: Mischief | None) -> None:
        self.weather.mischief = mischief

    def freeze(self, frozen: bool) -> None:
        self.weather.frozen = frozen

    def slow(self, rate: int) -> None:
        self.weather.rate = rate

    def _wrapped(self, wire: Wire, name: str) -> Unruly:
        self.unruly.append(Unruly(wire, self.weather, name))
        return self.unruly[-1]
