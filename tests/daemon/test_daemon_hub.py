"""The event stream: one snapshot, then numbers without a gap; resumed, coalesced, and cut off when slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from octopus_desktop.daemon.hub import QUEUE_EVENTS, RING_EVENTS, Hub
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb


def make_hub() -> Hub:
    return Hub("boot", lambda: pb.Snapshot(nodes=[pb.Node(id="n")]))


async def take(stream: AsyncIterator[pb.Event], count: int) -> list[pb.Event]:
    return [await anext(stream) for _ in range(count)]


async def test_snapshot_then_numbers_by_one() -> None:
    hub = make_hub()
    hub.publish("node", pb.Node(id="before"))
    stream = hub.watch("", 0)
    first = await anext(stream)
    assert first.number == 1 and first.snapshot.nodes[0].id == "n"
    for name in ("a", "b"):
        hub.publish("node", pb.Node(id=name))
    assert [(e.number, e.node.id) for e in await take(stream, 2)] == [(2, "a"), (3, "b")]


async def test_resume_gives_only_what_was_missed() -> None:
    hub = make_hub()
    for number in range(5):
        hub.publish("node", pb.Node(id=str(number)))
    assert [e.number for e in await take(hub.watch("boot", 3), 2)] == [4, 5]


@pytest.mark.parametrize(("boot", "after"), [("other", 3), ("boot", 0), ("boot", 99)])
async def test_no_resume_gives_a_fresh_snapshot(boot: str, after: int) -> None:
    hub = make_hub()
    for number in range(5):
        hub.publish("node", pb.Node(id=str(number)))
    first = await anext(hub.watch(boot, after))
    assert first.number == 5 and first.HasField("snapshot")


async def test_a_gap_beyond_the_ring_gives_a_fresh_snapshot() -> None:
    hub = make_hub()
    for number in range(RING_EVENTS + 10):
        hub.publish("removed", pb.Removed(kind="node", id=str(number)))
    assert (await anext(hub.watch("boot", 5))).HasField("snapshot")
    assert not (await anext(hub.watch("boot", 11))).HasField("snapshot")


async def test_frequent_changes_come_as_the_newest_one() -> None:
    hub = make_hub()
    stream = hub.watch("", 0)
    await anext(stream)
    for fraction in range(100):
        hub.soon("run", pb.Run(id="r", fraction=fraction / 100))
    event = await anext(stream)
    assert event.number == 1 and event.run.fraction == 0.99


async def test_a_slow_reader_is_cut_off_and_nobody_waits() -> None:
    hub = make_hub()
    slow, quick = hub.watch("", 0), hub.watch("", 0)
    await anext(slow)
    await anext(quick)
    for number in range(QUEUE_EVENTS + 2):
        hub.publish("node", pb.Node(id=str(number)))
        assert (await asyncio.wait_for(anext(quick), 5)).node.id == str(number)
    with pytest.raises(UserError) as error:
        await anext(slow)
    assert error.value.code == "OCT-DAEMON-SLOW"
