"""Blobs in chunks, from either side alone: credit, offsets, and what a faulty other side may not do."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from octopus_desktop.communication.chunk_way import ChunkWay
from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.parties import Session
from octopus_desktop.communication.wires import CREDIT_BYTES
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef
from octopus_desktop.wire.pb.sealed_pb2 import Ask, Broken, Gained, Inner, Lack
from tests.communication.conformance import eventually
from tests.communication.parts import MIB, Keys, Owner
from tests.communication.stores import FullStore


class Half:
    """One side's way, and the test in the place of the other side."""

    def __init__(self, owner: Owner, peer: str) -> None:
        self.owner, self.said, self.chunks = owner, asyncio.Queue[Inner](), asyncio.Queue[bytes]()
        self.resumed = 0
        self.faults: list[UserError] = []
        self.way = ChunkWay(
            Session(
                owner=owner,
                peer=peer,
                say=self.said.put,
                bulk=self.chunks.put,
                bulk_bytes=MIB,
                moved=self._moved,
                alive=lambda: None,
                faulty=self.faults.append,
            )
        )
        self.running = asyncio.create_task(self.way.run())

    def _moved(self, incoming: int, outgoing: int, resumed: int) -> None:
        self.resumed += resumed

    async def hears(self) -> Inner:
        return await asyncio.wait_for(self.said.get(), 10)

    def ask(self, ref: BlobRef, number: int = 1, run: str = "run-a") -> None:
        self.way.heard(Inner(ask=Ask(transfer=number, run_id=run, blob=ref)))


@asynccontextmanager
async def half(tmp_path: Path, name: str, peer: str) -> AsyncIterator[Half]:
    made = Half(Owner(tmp_path / name, name, Keys()), peer)
    try:
        yield made
    finally:
        made.running.cancel()
        await asyncio.wait([made.running])


def chunk(number: int, offset: int, data: bytes) -> bytes:
    return struct.pack(">QQ", number, offset) + data


async def test_a_sender_goes_no_further_than_its_credit(tmp_path: Path) -> None:
    async with half(tmp_path, SERVER, "alpha") as sender:
        size = 3 * CREDIT_BYTES
        envelope = sender.owner.envelope("alpha", blobs=[sender.owner.blob(size)])
        bringing = asyncio.create_task(sender.way.bring(envelope))
        assert (await sender.hears()).ask.blob == envelope.blobs[0]
        sender.way.heard(Inner(lack=Lack(transfer=1, offset=0)))
        await eventually(lambda: sender.chunks.qsize() >= CREDIT_BYTES // MIB)
        got = 0
        while got < size:
            data = await asyncio.wait_for(sender.chunks.get(), 10)
            assert struct.unpack_from(">QQ", data) == (1, got)
            got += len(data) - 16
            on_the_way = sum(len(each) - 16 for each in sender.chunks._queue)  # type: ignore[attr-defined]
            assert on_the_way + len(data) <= CREDIT_BYTES + MIB
            sender.way.heard(Inner(gained=Gained(transfer=1, offset=got)))
            await asyncio.sleep(0)
        assert not bringing.done(), "whole is what the receiver says, once it checked"
        sender.way.heard(Inner(gained=Gained(transfer=1, offset=size, whole=True)))
        await bringing


async def test_a_sender_begins_where_the_receiver_says(tmp_path: Path) -> None:
    async with half(tmp_path, SERVER, "alpha") as sender:
        ref = sender.owner.blob(3 * MIB)
        for offset, whole in ((3 * MIB, True), (2 * MIB + 5, False)):
            bringing = asyncio.create_task(sender.way.bring(sender.owner.envelope("alpha", blobs=[ref])))
            number = (await sender.hears()).ask.transfer
            sender.way.heard(Inner(lack=Lack(transfer=number, offset=offset, whole=whole)))
            if not whole:
                data = await asyncio.wait_for(sender.chunks.get(), 10)
                assert struct.unpack_from(">QQ", data) == (number, offset)
                assert data[16:] == sender.owner.store.path(ref.digest).read_bytes()[offset : offset + len(data) - 16]
                sender.way.heard(Inner(gained=Gained(transfer=number, offset=3 * MIB, whole=True)))
            await bringing
        assert sender.resumed == 2 * MIB + 5


async def test_a_receivers_fault_reaches_who_brings_the_blob(tmp_path: Path) -> None:
    async with half(tmp_path, SERVER, "alpha") as sender:
        ref = sender.owner.blob(2 * CREDIT_BYTES)
        full = UserError("OCT-DISK-FULL", "The disk is full.").to_fault()
        for begun in (False, True):
            bringing = asyncio.create_task(sender.way.bring(sender.owner.envelope("alpha", blobs=[ref])))
            number = (await sender.hears()).ask.transfer
            if begun:
                sender.way.heard(Inner(lack=Lack(transfer=number, offset=0)))
                await eventually(lambda: sender.chunks.qsize() >= CREDIT_BYTES // MIB)
            sender.way.heard(Inner(broken=Broken(transfer=number, fault=full)))
            with pytest.raises(UserError) as caught:
                await asyncio.wait_for(bringing, 10)
            assert caught.value.code == "OCT-DISK-FULL"
        assert sender.way._credit._free == CREDIT_BYTES, "what was on the way counts no more"


async def test_a_file_that_ends_early_or_is_not_there_is_told(tmp_path: Path) -> None:
    async with half(tmp_path, SERVER, "alpha") as sender:
        short, missing = sender.owner.blob(2 * MIB), BlobRef(digest="ab" * 32, size=5)
        with sender.owner.store.path(short.digest).open("r+b") as file:
            file.truncate(MIB)
        bringing = asyncio.create_task(sender.way.bring(sender.owner.envelope("alpha", blobs=[short])))
        number = (await sender.hears()).ask.transfer
        sender.way.heard(Inner(lack=Lack(transfer=number, offset=0)))
        with pytest.raises(UserError) as caught:
            await asyncio.wait_for(bringing, 10)
        assert caught.value.code == "OCT-BLOB-CORRUPT"
        broken = (await sender.hears()).broken
        assert broken.by_sender and broken.fault.code == "OCT-BLOB-CORRUPT"
        with pytest.raises(UserError) as caught:
            await sender.way.bring(sender.owner.envelope("alpha", blobs=[missing]))
        assert caught.value.code == "OCT-BLOB-MISSING"


async def test_a_server_brings_no_silo_what_is_not_its_own(tmp_path: Path) -> None:
    async with half(tmp_path, SERVER, "alpha") as sender:
        sender.owner.closed_runs.add("run-a")
        with pytest.raises(UserError) as caught:
            await sender.way.bring(sender.owner.envelope("alpha", blobs=[sender.owner.blob(10)]))
        assert caught.value.code == "OCT-BLOB-FORBIDDEN" and sender.said.empty()


async def test_a_receiver_says_what_it_wrote_and_in_the_end_that_it_is_whole(tmp_path: Path) -> None:
    source = Owner(tmp_path / "source", "alpha", Keys())
    ref = source.blob(5 * MIB)
    data = source.store.path(ref.digest).read_bytes()
    async with half(tmp_path, SERVER, "alpha") as receiver:
        receiver.ask(ref)
        assert (await receiver.hears()).lack == Lack(transfer=1, offset=0)
        for at in range(0, 5 * MIB, MIB):
            receiver.way.heard_bulk(chunk(1, at, data[at : at + MIB]))
        answers = [await receiver.hears() for _ in range(3)]
        assert [a.gained.offset for a in answers] == [2 * MIB, 4 * MIB, 5 * MIB]
        assert [a.gained.whole for a in answers] == [False, False, True]
        assert receiver.owner.store.path(ref.digest).read_bytes() == data
        receiver.ask(ref, 2)
        assert (await receiver.hears()).lack == Lack(transfer=2, offset=5 * MIB, whole=True)


async def test_a_receiver_refuses_what_it_may_not_take_and_what_does_not_fit(tmp_path: Path) -> None:
    async with half(tmp_path, SERVER, "alpha") as receiver:
        ref = BlobRef(digest="ab" * 32, size=2 * MIB)
        receiver.owner.closed_runs.add("run-x")
        receiver.ask(ref, 1, "run-x")
        assert (await receiver.hears()).broken.fault.code == "OCT-BLOB-FORBIDDEN"
        receiver.ask(BlobRef(digest="../../etc/passwd", size=1), 2)
        assert (await receiver.hears()).broken.fault.code == "OCT-BLOB-CORRUPT"
        receiver.ask(ref, 3)
        assert (await receiver.hears()).lack.transfer == 3
        receiver.way.heard_bulk(chunk(3, 7, b"elsewhere"))
        assert (await receiver.hears()).broken.fault.code == "OCT-BLOB-OFFSET"
        receiver.way.heard_bulk(chunk(3, 0, b"too late"))
        receiver.ask(ref, 4)
        assert (await receiver.hears()).lack.transfer == 4
        receiver.way.heard_bulk(chunk(4, 0, bytes(2 * MIB)))
        assert (await receiver.hears()).broken.fault.code == "OCT-BLOB-CORRUPT"
        full = receiver.owner.store = receiver.way._store = FullStore(receiver.owner.root / "blobs")
        receiver.ask(ref, 5)
        assert (await receiver.hears()).broken.fault.code == "OCT-DISK-FULL"
        assert full.refused == 1 and receiver.faults[0].code == "OCT-DISK-FULL"
        assert not receiver.running.done() and receiver.way._held == 0


async def test_a_sender_that_gives_up_frees_the_receiver(tmp_path: Path) -> None:
    async with half(tmp_path, SERVER, "alpha") as receiver:
        ref = BlobRef(digest="ab" * 32, size=2 * MIB)
        for number in (1, 2, 3):  # the second and third wait for the first's lock otherwise
            receiver.ask(ref, number)
            assert (await receiver.hears()).lack.transfer == number
            receiver.way.heard(Inner(broken=Broken(transfer=number, by_sender=True)))
            await eventually(lambda: not receiver.way._incoming)


@pytest.mark.parametrize("fault", ["bytes", "transfers", "twice"])
async def test_who_sends_beyond_its_credit_ends_the_session(tmp_path: Path, fault: str) -> None:
    async with half(tmp_path, SERVER, "alpha") as receiver:
        ref = BlobRef(digest="ab" * 32, size=100 * CREDIT_BYTES)
        receiver.ask(ref)
        if fault == "bytes":
            for at in range(0, 2 * CREDIT_BYTES, MIB):
                receiver.way.heard_bulk(chunk(1, at, bytes(MIB)))
        else:
            for number in range(2, 10) if fault == "transfers" else (1,):
                receiver.ask(ref, number)
        with pytest.raises(UserError) as caught:
            await asyncio.wait_for(receiver.running, 10)
        assert caught.value.code == "OCT-LINK-ENVELOPE" and "more of its blobs" in caught.value.what


async def test_words_about_transfers_that_nobody_knows_are_ignored(tmp_path: Path) -> None:
    async with half(tmp_path, SERVER, "alpha") as way:
        for inner in (
            Inner(lack=Lack(transfer=9)),
            Inner(gained=Gained(transfer=9, offset=5, whole=True)),
            Inner(broken=Broken(transfer=9)),
            Inner(broken=Broken(transfer=9, by_sender=True)),
            Inner(),
        ):
            way.way.heard(inner)
        way.way.heard_bulk(chunk(9, 0, b"x"))
        way.way.heard_bulk(b"short")
        assert not way.running.done()
