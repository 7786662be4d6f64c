"""The relay to an endpoint process, with real processes: both ways to get one, order, back-pressure, and its deaths."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.communication.relay import RelayWire
from octopus_desktop.communication.relay_client import RelayClient
from octopus_desktop.communication.relay_frames import (
    HEAD,
    MESSAGE_BYTES,
    WINDOW,
    FrameError,
    FrameReader,
    Kind,
    head,
)
from octopus_desktop.communication.relay_sources import Attached, Source, Spawned
from octopus_desktop.communication.wires import Lane
from octopus_desktop.system.endpoint import token_path
from octopus_desktop.system.processes import leashed
from octopus_desktop.wire.errors import UserError

PATIENCE_S = 30.0


def spawned(how: str = "echo") -> Spawned:
    def command(descriptor: int) -> Sequence[str]:
        return leashed("tests.communication.echo_endpoint", str(descriptor), how)

    return Spawned(command, dict(os.environ))


class Bench:
    """An opened wire and what came over it."""

    def __init__(self, source: Source, **options: Any) -> None:
        self.wire = RelayWire(
            source,
            fault=lambda why: UserError("OCT-RPC-ENDPOINT", "The endpoint ended.", why, ""),
            faults=frozenset({"OCT-RPC-PEER"}),
            **options,
        )
        self.got: list[tuple[str, Lane, bytes]] = []
        self.gone: list[str] = []
        self.came = asyncio.Event()

    def _receive(self, peer: str, lane: Lane, message: bytes) -> None:
        self.got.append((peer, lane, message))
        self.came.set()

    async def open(self) -> None:
        await asyncio.wait_for(self.wire.open(self._receive, self.gone.append), PATIENCE_S)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.got) < count:
                self.came.clear()
                await self.came.wait()

    async def broken(self) -> UserError:
        error = await asyncio.wait_for(self.wire.broken(), PATIENCE_S)
        assert isinstance(error, UserError)
        return error


@asynccontextmanager
async def bench(source: Source, **options: Any) -> AsyncIterator[Bench]:
    made = Bench(source, **options)
    await made.open()
    try:
        yield made
    finally:
        await made.wire.close()


async def test_messages_of_all_sizes_come_back_whole_and_in_order() -> None:
    async with bench(spawned()) as b:
        sizes = [0, 1, 4096, 65_000, 65_536, 65_537, 300_000, MESSAGE_BYTES]
        sent = [("alpha", Lane(i % 2), os.urandom(size)) for i, size in enumerate(sizes * 3)]
        for message in sent:
            await b.wire.send(*message)
        await b.until(len(sent))
        for lane in Lane:
            assert [m for m in b.got if m[1] is lane] == [m for m in sent if m[1] is lane]


async def test_many_small_messages_keep_their_order() -> None:
    async with bench(spawned()) as b:
        for i in range(5_000):
            await b.wire.send("alpha", Lane.MAIL, b"%d" % i)
        await b.until(5_000)
        assert [m[2] for m in b.got] == [b"%d" % i for i in range(5_000)]


async def test_the_endpoint_tells_who_is_gone() -> None:
    async with bench(spawned()) as b:
        await b.wire.send("beta", Lane.MAIL, b"gone")
        await b.until(1)
        assert b.gone == ["beta"]


async def test_an_endpoint_that_hands_nothing_on_holds_its_peer_back_and_no_other() -> None:
    async with bench(spawned("hoard")) as b:
        await b.wire.send("alpha", Lane.BULK, bytes(1 << 20))
        for _ in range(WINDOW[Lane.BULK] >> 20):
            await b.wire.send("alpha", Lane.BULK, bytes(1 << 20))
        full = asyncio.create_task(b.wire.send("alpha", Lane.BULK, bytes(1 << 20)))
        await b.wire.send("alpha", Lane.MAIL, b"passes")
        await b.wire.send("beta", Lane.BULK, b"passes")
        await b.until(1)
        assert not full.done()
        full.cancel()
        await asyncio.wait([full])
        os.kill(b.wire._source.pid, 9)
        assert (await b.broken()).code == "OCT-RPC-ENDPOINT"


async def test_a_cancelled_send_leaves_the_stream_whole() -> None:
    async with bench(spawned()) as b:
        sends = [asyncio.create_task(b.wire.send("alpha", Lane.BULK, bytes(1 << 20))) for _ in range(12)]
        await asyncio.sleep(0)
        for send in sends[6:]:
            send.cancel()
        done = await asyncio.gather(*sends, return_exceptions=True)
        await b.wire.send("alpha", Lane.BULK, b"last")
        await b.until(1 + sum(result is None for result in done))
        assert b.got[-1][2] == b"last"


async def test_a_flood_from_the_endpoint_leaves_the_loop_its_turns() -> None:
    async with bench(spawned("flood")) as b:
        await b.until(20)
        began = asyncio.get_running_loop().time()
        for _ in range(50):
            b.got.clear()
            await asyncio.sleep(0)
        assert asyncio.get_running_loop().time() - began < 5


async def test_an_endpoint_that_died_breaks_the_wire_and_a_new_one_takes_over() -> None:
    async with bench(spawned("die")) as b:
        await b.wire.send("alpha", Lane.MAIL, b"now")
        error = await b.broken()
        assert error.code == "OCT-RPC-ENDPOINT" and "SIGKILL" in error.why and "word" not in error.why, (
            "its words may be a peer's"
        )
        with pytest.raises(UserError):
            await b.wire.send("alpha", Lane.MAIL, b"too late")
        await b.open()
        await b.wire.send("alpha", Lane.MAIL, b"again")
        assert "SIGKILL" in (await b.broken()).why


async def test_a_waiting_sender_learns_of_the_endpoints_death() -> None:
    async with bench(spawned("stop")) as b:
        sends = [asyncio.create_task(b.wire.send("alpha", Lane.BULK, bytes(1 << 20))) for _ in range(8)]
        await asyncio.wait(sends, return_when=asyncio.FIRST_COMPLETED)
        os.kill(b.wire._source.pid, 9)
        results = await asyncio.wait_for(asyncio.gather(*sends, return_exceptions=True), PATIENCE_S)
        assert any(isinstance(r, UserError) and r.code == "OCT-RPC-ENDPOINT" for r in results)


async def test_an_endpoint_that_is_stopped_is_taken_for_dead() -> None:
    async with bench(spawned("stop"), ping_s=0.1, deaf_s=0.5) as b:
        await b.wire.send("alpha", Lane.MAIL, b"x")
        assert "answered nothing" in (await b.broken()).why


async def test_an_endpoint_that_brings_nothing_any_more_is_replaced() -> None:
    async with bench(spawned(), ping_s=0.1, hush_s=0.5) as b:
        await b.wire.send("alpha", Lane.MAIL, b"x")
        assert "brought no message" in (await b.broken()).why
        await b.open()  # one that never brought any is left alone: nobody may be there yet
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(b.wire.broken(), 1.5)


async def test_what_the_endpoint_sends_against_the_rules_breaks_the_wire() -> None:
    async with bench(spawned("garbage")) as b:
        await b.wire.send("alpha", Lane.MAIL, b"x")
        error = await b.broken()
        assert error.code == "OCT-RPC-ENDPOINT" and "It sent" in error.why


async def test_an_endpoint_that_is_never_ready_ends_in_an_error() -> None:
    b = Bench(spawned("mute"), start_s=2.0)
    with pytest.raises(UserError) as caught:
        await b.open()
    assert caught.value.code == "OCT-RPC-ENDPOINT" and "not ready" in caught.value.why


async def test_an_endpoint_gives_its_reason_but_only_within_its_own_carrier() -> None:
    with pytest.raises(UserError) as caught:
        await Bench(spawned("fault")).open()
    assert caught.value.code == "OCT-RPC-PEER" and "\x1b" not in caught.value.what
    with pytest.raises(UserError) as caught:
        await Bench(spawned("foreign fault")).open()
    assert caught.value.code == "OCT-RPC-ENDPOINT"


async def test_an_endpoint_that_cannot_be_started_says_why() -> None:
    b = Bench(Spawned(lambda _: ["/no/such/program"], {}))
    with pytest.raises(UserError) as caught:
        await b.open()
    assert caught.value.code == "OCT-RPC-ENDPOINT" and "could not be started" in caught.value.why
    with pytest.raises(UserError) as caught:
        await Bench(Spawned(lambda _: [sys.executable, "-c", "raise SystemExit('no torch here')"], {})).open()
    assert "exit code 1" in caught.value.why and "no torch here" in caught.value.why


async def test_an_endpoint_attaches_by_itself_and_again_after_its_death(tmp_path: Path) -> None:
    place = tmp_path / "run" / "rank.sock"
    b = Bench(Attached(place))
    words = [sys.executable, "-m", "tests.communication.echo_endpoint", str(place), "echo"]
    try:
        for _ in range(2):
            endpoint = await asyncio.create_subprocess_exec(*words)
            try:
                await b.open()
                assert not place.exists() and not token_path(place).exists(), "nobody else may attach"
                b.got.clear()
                await b.wire.send("alpha", Lane.MAIL, b"hello")
                await b.until(1)
            finally:
                endpoint.kill()
                await endpoint.wait()
            assert (await b.broken()).code == "OCT-RPC-ENDPOINT"
    finally:
        await b.wire.close()


def wait_for_file(path: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.01)


async def test_who_does_not_know_the_token_is_turned_away(tmp_path: Path) -> None:
    place = tmp_path / "run" / "rank.sock"
    b = Bench(Attached(place))
    opening = asyncio.create_task(b.open())
    await asyncio.to_thread(wait_for_file, place)
    for path, mode in ((place.parent, 0o700), (place, 0o600), (token_path(place), 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(place))
        stranger.sendall(head(Kind.HELLO, payload_bytes=43) + b"x" * 43)
        assert await asyncio.to_thread(stranger.recv, 1) == b""
    client = await asyncio.to_thread(RelayClient.attach, place)
    client.ready()
    await opening
    client.close()
    await b.wire.close()


def test_nobody_to_attach_to_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        RelayClient.attach(tmp_path / "no.sock", wait_s=0.2)
    assert caught.value.code == "OCT-DAEMON-AWAY"


@pytest.mark.parametrize(
    "frame",
    [
        HEAD.pack(MESSAGE_BYTES + 1, Kind.MESSAGE, 0, 0),
        HEAD.pack(1 << 31, Kind.MESSAGE, 0, 5),
        HEAD.pack(0, 99, 0, 0),
        HEAD.pack(0, Kind.MESSAGE, 2, 0),
        HEAD.pack(3, Kind.MESSAGE, 0, 4),
        HEAD.pack(2, Kind.MESSAGE, 0, 2) + b"\xff\xff",
        HEAD.pack(2, Kind.MESSAGE, 0, 2) + b"\x1b[",
    ],
)
def test_a_frame_against_the_rules_is_refused_before_anything_is_allocated(frame: bytes) -> None:
    reader = FrameReader()
    reader.buffer()[: len(frame)] = frame
    with pytest.raises(FrameError):
        list(reader.took(len(frame)))


def test_a_name_or_message_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(FrameError):
        head(Kind.MESSAGE, peer="x" * 129)
    with pytest.raises(FrameError):
        head(Kind.MESSAGE, payload_bytes=MESSAGE_BYTES + 1)
