"""Blobs through a real S3 store: stored once, resumed, refused, sent anew, removed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.communication import store_transfer
from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.lanes import RETRY
from octopus_desktop.communication.object_store import Access, ObjectStore
from octopus_desktop.communication.sealed_object import sealed_size
from octopus_desktop.communication.seaweed import Seaweed
from octopus_desktop.communication.store_keeper import lifecycle_rule
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import ANSWER, BlobRef, Envelope
from octopus_desktop.wire.pb.sealed_pb2 import Ask, Broken, Inner, PartsWanted, StoredObject, Uploaded
from tests.communication.mischief import Mischief
from tests.communication.parts import MIB, Keys
from tests.communication.store_parts import Side, asked_until, keyless, line_to, linked

RESOURCES = Path(__file__).parents[2] / "resources" / "brokers" / "s3"


@asynccontextmanager
async def sides(
    root: Path, seaweed: Seaweed, *silos: str, access: Access | None = None, **options: Any
) -> AsyncIterator[list[Side]]:
    """A server with its keeper, and silos without credentials."""
    keys = Keys()
    for name in silos:
        keys.silo(name)
    prefix = f"octopus/{root.name}/"
    access = access or seaweed.access()
    server = Side(root, SERVER, keys, access, prefix=prefix, **options)
    others = [Side(root, name, keys, keyless(access), prefix=prefix) for name in silos]
    async with server.kept():
        try:
            yield [server, *others]
        finally:
            for other in others:
                await other.desk.close()


def model(server: Side, size: int, *to: str, round: int = 1) -> list[Envelope]:
    ref = server.owner.blob(size)
    return [server.owner.post(name, blobs=[ref], round=round) for name in to]


def answer(silo: Side, size: int) -> Envelope:
    return silo.owner.post(SERVER, kind=ANSWER, blobs=[silo.owner.blob(size)])


def whole(at: Side, envelope: Envelope) -> bool:
    return all(at.owner.store.has(ref.digest) for ref in envelope.blobs)


async def fails(work: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        await work
    return caught.value


async def test_blobs_of_all_sizes_go_down_and_up_and_leave_nothing_in_the_bucket(
    tmp_path: Path, seaweed: Seaweed
) -> None:
    sizes = (0, 1, MIB, 3 * MIB + 7, 12 * MIB)
    async with sides(tmp_path, seaweed, "alpha") as (server, alpha), linked(server, alpha) as (down, up):
        for size in sizes:
            await down.bring(task := model(server, size, "alpha")[0])
            await up.bring(update := answer(alpha, size))
            assert whole(alpha, task) and whole(server, update)
        moved = sum(sealed_size(size) for size in sizes if size)
        assert alpha.outgoing == alpha.incoming == server.outgoing == server.incoming == moved
        assert await server.until_names(lambda names: not names) == []
        assert await server.uploads() == []


async def test_the_store_sees_sizes_and_no_content_and_names_tell_nothing(tmp_path: Path, seaweed: Seaweed) -> None:
    async with sides(tmp_path, seaweed, "alpha", "beta") as (server, alpha, beta):
        async with linked(server, alpha) as (down, _), linked(server, beta):
            task = model(server, 2 * MIB, "alpha", "beta")[0]
            await down.bring(task)
            [name] = await server.names()
            url = server.store.sign_get(name, 60)
            stored = (await server.ask(lambda: server.desk.http._pool.request("GET", url))).data
        plain = server.owner.store.path(task.blobs[0].digest).read_bytes()
        assert len(stored) == sealed_size(len(plain))
        assert not any(plain[at : at + 16] in stored for at in range(0, len(plain), 65536))
        random = name.removeprefix(server.desk.prefix)
        assert len(random) == 32 and set(random) <= set("0123456789abcdef")
        assert alpha.owner.name not in name and "run-a" not in name


async def test_one_model_for_many_silos_is_stored_once(tmp_path: Path, seaweed: Seaweed) -> None:
    size, silos = 12 * MIB, ("alpha", "beta", "gamma")
    async with sides(tmp_path, seaweed, *silos) as (server, *others):
        tasks = model(server, size, *silos)
        async with AsyncExitStack() as links:
            ways = [(await links.enter_async_context(linked(server, other)))[0] for other in others]
            await asyncio.gather(*(way.bring(task) for way, task in zip(ways, tasks, strict=True)))
        assert server.outgoing == sealed_size(size)
        assert [other.incoming for other in others] == 3 * [sealed_size(size)]


async def test_a_model_stays_as_long_as_a_silo_still_waits_for_it_and_then_goes(
    tmp_path: Path, seaweed: Seaweed
) -> None:
    async with (
        sides(tmp_path, seaweed, "alpha", "beta") as (server, alpha, beta),
        linked(server, alpha) as (to_alpha, _),
        linked(server, beta) as (to_beta, _),
    ):
        first, second = model(server, MIB, "alpha", "beta")
        await to_alpha.bring(first)
        server.owner.delivered(first)
        assert server.keeper is not None
        server.keeper.changed()
        assert len(await server.names()) == 1
        await to_beta.bring(second)
        await server.until_names(lambda names: not names)
        assert server.outgoing == sealed_size(MIB)


async def test_a_newer_rounds_model_replaces_the_older_one(tmp_path: Path, seaweed: Seaweed) -> None:
    async with (
        sides(tmp_path, seaweed, "alpha", "beta") as (server, alpha, beta),
        linked(server, alpha) as (to_alpha, _),
        linked(server, beta),
    ):
        await to_alpha.bring(model(server, MIB, "alpha", "beta", round=1)[0])
        [old] = await server.names()
        await to_alpha.bring(model(server, MIB, "alpha", "beta", round=2)[0])
        await server.until_names(lambda names: len(names) == 1 and old not in names)


async def test_what_a_silo_has_already_is_not_stored_at_all(tmp_path: Path, seaweed: Seaweed) -> None:
    async with sides(tmp_path, seaweed, "alpha") as (server, alpha), linked(server, alpha) as (down, up):
        task, update = model(server, MIB, "alpha")[0], answer(alpha, MIB)
        alpha.owner.store.adopt(server.owner.store.path(task.blobs[0].digest))
        server.owner.store.adopt(alpha.owner.store.path(update.blobs[0].digest))
        await down.bring(task)
        await up.bring(update)
        assert server.outgoing == alpha.outgoing == 0 and await server.names() == []


async def test_a_blob_of_a_foreign_run_passes_in_no_direction(tmp_path: Path, seaweed: Seaweed) -> None:
    async with sides(tmp_path, seaweed, "alpha") as (server, alpha), linked(server, alpha) as (down, up):
        server.owner.closed_runs.add("run-a")
        assert (await fails(down.bring(model(server, MIB, "alpha")[0]))).code == "OCT-BLOB-FORBIDDEN"
        assert (await fails(up.bring(answer(alpha, MIB)))).code == "OCT-BLOB-FORBIDDEN"
        server.owner.closed_runs.clear()
        alpha.owner.closed_runs.add("run-a")
        assert (await fails(down.bring(model(server, MIB, "alpha")[0]))).code == "OCT-BLOB-FORBIDDEN"
        assert await server.names() == [] and await server.uploads() == []


async def test_a_silo_with_credentials_of_its_own_needs_no_signed_urls(tmp_path: Path, seaweed: Seaweed) -> None:
    async with sides(tmp_path, seaweed, "alpha") as (server, _):
        own = Side(tmp_path / "own", "alpha", server.owner.keys, seaweed.access(), prefix=server.desk.prefix)
        server.owner.keys.silo("alpha")
        seen = []

        async def look(inner: Inner) -> None:
            seen.append(inner.WhichOneof("inner"))
            assert not ("/own-" in inner.object.object and inner.object.url)

        async with own.kept(), linked(server, own, look) as (down, up):
            await up.bring(update := answer(own, 12 * MIB))
            await down.bring(task := model(server, 12 * MIB, "alpha")[0])
            assert whole(server, update) and whole(own, task)
            assert "parts_wanted" not in seen
            await server.until_names(lambda names: not names)


# damage


@pytest.mark.parametrize("how", ["removed", "changed", "swapped", "cut"])
async def test_an_object_that_was_touched_is_noticed_and_made_anew(tmp_path: Path, seaweed: Seaweed, how: str) -> None:
    size = 6 * MIB
    async with sides(tmp_path, seaweed, "alpha") as (server, alpha):
        touched: list[str] = []

        async def touch(inner: Inner) -> None:
            if inner.WhichOneof("inner") in ("object", "uploaded") and not touched:
                name = inner.object.object or inner.uploaded.object
                if inner.uploaded.object:  # a whole object, of which the silo is about to tell
                    note = await server.intake.complete("alpha", inner.uploaded)  # type: ignore[union-attr]
                    assert note.complete
                touched.append(name)
                await server.ask(_touch, server.store, server, name, how)

        for up_first in (True, False):
            touched.clear()
            async with linked(server, alpha, touch) as (down, up):
                if up_first:
                    await up.bring(envelope := answer(alpha, size))
                    assert whole(server, envelope)
                else:
                    await down.bring(envelope := model(server, size, "alpha")[0])
                    assert whole(alpha, envelope)
            assert touched
        assert server.outgoing == alpha.outgoing == 2 * sealed_size(size), "sent twice, under another key"
        assert {fault.code for fault in (*server.faults, *alpha.faults)} == {"OCT-STORE-OBJECT"}
        await server.until_names(lambda names: not names)


def _touch(store: ObjectStore, side: Side, name: str, how: str) -> None:
    data = bytearray(side.desk.http._pool.request("GET", store.sign_get(name, 60)).data)
    match how:
        case "removed":
            store.remove(name)
        case "changed":
            data[4 * MIB] ^= 1
        case "swapped":
            sealed = MIB + 16
            data[:sealed], data[sealed : 2 * sealed] = data[sealed : 2 * sealed], data[:sealed]
        case "cut":
            del data[5 * (MIB + 16) :]
    if how != "removed":
        store.put(name, bytes(data))


async def test_an_object_that_is_touched_each_time_ends_in_a_typed_error(tmp_path: Path, seaweed: Seaweed) -> None:
    async with sides(tmp_path, seaweed, "alpha") as (server, alpha):

        async def remove(inner: Inner) -> None:
            if inner.WhichOneof("inner") == "object":
                await server.ask(server.store.remove, inner.object.object)

        async with linked(server, alpha, remove) as (down, _):
            fault = await fails(down.bring(model(server, MIB, "alpha")[0]))
            assert fault.code == "OCT-STORE-OBJECT" and fault.next_step


async def test_a_network_that_corrupts_delays_and_harms_nothing(tmp_path: Path, seaweed: Seaweed) -> None:
    size = 22 * MIB
    async with (
        line_to(seaweed) as (line, access),
        sides(tmp_path, seaweed, "alpha", access=access) as (server, alpha),
        linked(server, alpha) as (down, up),
    ):
        for way, envelope in ((down, model(server, size, "alpha")[0]), (up, answer(alpha, size))):
            line.mischief = Mischief("corrupt", chance=0.02, most=6)
            for _ in range(8):  # as the link does, with pauses between
                try:
                    await way.bring(envelope)
                    break
                except UserError as error:
                    assert error.code in RETRY, "the envelope stays"
            assert whole(alpha if way is down else server, envelope) and line.mischief.done > 0


# time


async def test_urls_that_expire_in_the_middle_are_replaced(tmp_path: Path, seaweed: Seaweed) -> None:
    size = 22 * MIB
    async with line_to(seaweed) as (line, access):
        asked: list[str] = []

        async def slow_down(inner: Inner) -> None:
            if (what := inner.WhichOneof("inner")) in ("object", "part_urls"):
                asked.append(what)
                line.rate = 3 * MIB  # for each of three connections
            if inner.WhichOneof("inner") == "uploaded":
                line.rate = 0

        async with sides(tmp_path, seaweed, "alpha", access=access, url_s=1) as (server, alpha):
            async with linked(server, alpha, slow_down) as (down, up):
                await down.bring(task := model(server, size, "alpha")[0])
                assert whole(alpha, task) and asked.count("object") > 1
                line.rate = 0
                await up.bring(update := answer(alpha, size))
                assert whole(server, update) and asked.count("part_urls") > 1
            assert alpha.incoming < 1.2 * size, "what was there is not fetched again"


async def test_a_url_that_is_past_its_time_again_and_again_is_a_typed_error(tmp_path: Path, seaweed: Seaweed) -> None:
    async with sides(tmp_path, seaweed, "alpha") as (server, alpha):
        sign = server.store.sign_get

        def too_late(name: str, seconds: int) -> str:
            from botocore import auth

            real, auth.get_current_datetime = auth.get_current_datetime, lambda *a, **k: real(*a, **k) - _hour()
            try:
                return sign(name, seconds)
            finally:
                auth.get_current_datetime = real

        server.store.sign_get = too_late  # type: ignore[method-assign]  # a server whose clock is an hour slow
        async with linked(server, alpha) as (down, _):
            fault = await fails(down.bring(model(server, MIB, "alpha")[0]))
            assert fault.code == "OCT-STORE-EXPIRED" and "clock" in fault.next_step


def _hour() -> Any:
    import datetime

    return datetime.timedelta(hours=1)


# what the store itself says


async def test_a_store_that_is_away_is_waited_for(tmp_path: Path, seaweed: Seaweed) -> None:
    async with (
        line_to(seaweed) as (line, access),
        sides(tmp_path, seaweed, "alpha", access=access) as (server, alpha),
        linked(server, alpha) as (down, up),
    ):
        line.refuse = True
        task, update = model(server, MIB, "alpha")[0], answer(alpha, MIB)
        for work in (down.bring(task), up.bring(update)):
            fault = await fails(work)
            assert fault.code == "OCT-STORE-DOWN" and access.endpoint in fault.what
        line.refuse = False
        await down.bring(task)
        await up.bring(update)
        assert whole(alpha, task) and whole(server, update)


async def test_a_cut_line_costs_at_most_the_parts_under_way(tmp_path: Path, seaweed: Seaweed) -> None:
    size = 60 * MIB
    async with (
        line_to(seaweed) as (line, access),
        sides(tmp_path, seaweed, "alpha", access=access) as (server, alpha),
    ):
        async with linked(server, alpha) as (_, up):
            update = answer(alpha, size)
            line.rate = 40 * MIB
            bringing = asyncio.create_task(up.bring(update))
            await line.passed(up=size // 2)
            line.refuse = True
            line.cut()
            assert (await fails(bringing)).code == "OCT-STORE-DOWN"
            line.refuse, line.rate = False, 0
        async with linked(server, alpha) as (_, up):  # another session
            await up.bring(update)
        assert whole(server, update)
        assert alpha.resumed > size // 8
        assert alpha.outgoing <= sealed_size(size) + 2 * store_transfer.PARTS_UNDER_WAY * 6 * MIB


async def test_a_server_that_crashed_in_the_middle_of_its_upload_goes_on_with_it(
    tmp_path: Path, seaweed: Seaweed
) -> None:
    size = 60 * MIB
    async with line_to(seaweed) as (line, access):
        async with (
            sides(tmp_path, seaweed, "alpha", access=access) as (server, alpha),
            linked(server, alpha) as (down, _),
        ):
            task = model(server, size, "alpha")[0]
            line.rate = 40 * MIB
            bringing = asyncio.create_task(down.bring(task))
            await line.passed(up=size // 2)
            bringing.cancel()
            await asyncio.wait([bringing])
        assert server.outgoing < size
        line.rate = 0
        again = Side(tmp_path, SERVER, server.owner.keys, access, prefix=server.desk.prefix, linger_s=900.0)
        alpha = Side(tmp_path, "alpha", server.owner.keys, keyless(access), prefix=server.desk.prefix)
        async with again.kept():
            async with linked(again, alpha) as (down, _):
                [task] = again.owner.pending("alpha")
                await down.bring(task)
                assert whole(alpha, task) and again.resumed > 0
                assert again.outgoing + again.resumed == sealed_size(size)
                await again.until_names(lambda names: not names)
            await alpha.desk.close()


@pytest.mark.parametrize("wrong", ["secret", "key_id", "bucket"])
async def test_wrong_credentials_and_a_missing_bucket_are_named(tmp_path: Path, seaweed: Seaweed, wrong: str) -> None:
    access = Access(
        endpoint=seaweed.endpoint,
        bucket="no-such-bucket" if wrong == "bucket" else seaweed.bucket,
        key_id="WRONG" if wrong == "key_id" else seaweed.key_id,
        secret="wrong" if wrong == "secret" else seaweed.secret,
    )
    code = "OCT-STORE-BUCKET" if wrong == "bucket" else "OCT-STORE-DENIED"
    async with (
        sides(tmp_path, seaweed, "alpha", access=access) as (server, alpha),
        linked(server, alpha) as (down, up),
    ):
        for size in (MIB, 12 * MIB):
            assert (await fails(down.bring(model(server, size, "alpha")[0]))).code == code
            assert (await fails(up.bring(answer(alpha, size)))).code == code
        assert (await fails(server.ask(server.store.check))).code == code


# what a silo may not do


async def test_a_silo_that_calls_a_good_object_bad_takes_nothing_from_the_others(
    tmp_path: Path, seaweed: Seaweed
) -> None:
    async with (
        sides(tmp_path, seaweed, "alpha", "beta") as (server, alpha, beta),
        linked(server, beta) as (to_beta, _),
    ):
        first, second = model(server, MIB, "alpha", "beta")
        told: asyncio.Queue[str] = asyncio.Queue()

        async def lie(inner: Inner) -> None:
            if inner.WhichOneof("inner") == "gained":
                number = inner.gained.transfer
                alpha.owner.store.remove(first.blobs[0].digest)
                fault = UserError("OCT-STORE-OBJECT", "It is bad.", "Believe me.", "")
                inner.broken.CopyFrom(Broken(transfer=number, fault=fault.to_fault()))
            elif inner.WhichOneof("inner") == "object":
                told.put_nowait(inner.object.object)

        assert server.made is not None
        async with server.made.lent(first.blobs[0], "run-a", 1, server.moved) as held:  # beta is at it
            async with linked(server, alpha, lie) as (to_alpha, _):
                assert (await fails(to_alpha.bring(first))).code == "OCT-STORE-OBJECT"
            assert held.object in await server.names()
        assert told.get_nowait() == held.object
        await to_beta.bring(second)
        assert whole(beta, second)
        await server.until_names(lambda names: held.object not in names)


async def test_a_flood_of_messages_ends_the_session_and_not_the_server(tmp_path: Path, seaweed: Seaweed) -> None:
    async with sides(tmp_path, seaweed, "alpha") as (server, _):
        ref = BlobRef(digest="ab" * 32, size=MIB)

        async def say(inner: Inner) -> None:
            """A wire that is full: nothing gets through."""
            await asyncio.Event().wait()

        way = server.way("alpha", say)
        session = asyncio.create_task(way.run())
        await asyncio.sleep(0)
        for number in range(200):
            way.heard(Inner(ask=Ask(transfer=number, run_id="run-a", blob=ref)))
        fault = await fails(asyncio.wait_for(session, 10))
        assert fault.code == "OCT-LINK-ENVELOPE"


async def test_a_signed_url_takes_no_other_length(tmp_path: Path, seaweed: Seaweed) -> None:
    from octopus_desktop.communication.signed_http import Transfer

    async with sides(tmp_path, seaweed, "alpha") as (server, alpha):
        assert server.intake is not None
        ref = BlobRef(digest="ab" * 32, size=MIB)
        wanted = PartsWanted(
            run_id="run-a", blob=ref, stored=sealed_size(MIB), part_bytes=store_transfer.Layout.of(MIB, 0).part_bytes
        )
        answer = await server.intake.urls("alpha", wanted)
        put = alpha.desk.http.put
        fault = await fails(alpha.ask(lambda: put(answer.urls[0].url, 3, [b"abc"], Transfer())))
        assert fault.code == "OCT-STORE-DENIED"
        for wrong in ({"stored": 5}, {"part_bytes": 1}, {"part_bytes": 1 << 40}, {"parts": [2]}, {"parts": [0]}):
            changed = PartsWanted()
            changed.CopyFrom(wanted)
            for key, value in wrong.items():
                changed.ClearField(key)
                changed.MergeFrom(PartsWanted(**{key: value}))
            assert (await fails(server.intake.urls("alpha", changed))).code == "OCT-LINK-ENVELOPE"


async def test_a_silo_cannot_name_objects_that_are_not_its_own(tmp_path: Path, seaweed: Seaweed) -> None:
    async with sides(tmp_path, seaweed, "alpha", "beta") as (server, alpha, _):
        assert server.intake is not None
        ref = BlobRef(digest="ab" * 32, size=MIB)
        wanted = PartsWanted(
            run_id="run-a", blob=ref, stored=sealed_size(MIB), part_bytes=store_transfer.Layout.of(MIB, 0).part_bytes
        )
        theirs = (await server.intake.urls("beta", wanted)).object
        wanted.object = theirs
        assert (await server.intake.urls("alpha", wanted)).object != theirs
        said = Uploaded(run_id="run-a", blob=ref, object=theirs, stored=sealed_size(MIB), key=bytes(32))
        assert (await fails(server.intake.complete("alpha", said))).code == "OCT-STORE-OBJECT"
        answers: asyncio.Queue[Inner] = asyncio.Queue()

        async def keep(inner: Inner) -> None:
            answers.put_nowait(inner)

        async with linked(server, alpha, keep) as (down, _):
            for name in ("elsewhere/secret", server.desk.prefix + "../other"):
                down.heard(
                    Inner(
                        object=StoredObject(
                            transfer=9,
                            run_id="run-a",
                            blob=ref,
                            object=name,
                            stored=sealed_size(MIB),
                            key=bytes(32),
                            url="http://169.254.169.254/latest/meta-data",
                        )
                    )
                )
                assert (await answers.get()).broken.fault.code == "OCT-STORE-OBJECT"


async def test_a_silo_follows_no_url_to_another_place(tmp_path: Path, seaweed: Seaweed) -> None:
    async with sides(tmp_path, seaweed, "alpha") as (server, alpha):
        for url in (
            "http://169.254.169.254/octopus/x",
            f"https://{seaweed.endpoint.removeprefix('http://')}/octopus/x",
            seaweed.endpoint.replace("127.0.0.1", "user@127.0.0.1") + "/octopus/x",
            seaweed.endpoint + "0/octopus/x",
            "file:///etc/passwd",
        ):
            assert not alpha.desk.http.allows(url), url
        assert alpha.desk.http.allows(server.store.sign_get("x", 5))
        server.store.sign_get = lambda name, seconds: "http://169.254.169.254/"  # type: ignore[method-assign]
        async with linked(server, alpha) as (down, _):
            assert (await fails(down.bring(model(server, MIB, "alpha")[0]))).code == "OCT-STORE-OBJECT"


# the net below


async def test_what_nobody_needs_is_swept_at_the_start_and_a_lifecycle_rule_is_set(
    tmp_path: Path, seaweed: Seaweed
) -> None:
    store = ObjectStore(seaweed.access())
    prefix = f"octopus/{tmp_path.name}/"
    other = {"ID": f"other-{tmp_path.name}", "Status": "Enabled", "Filter": {"Prefix": "x/"}, "Expiration": {"Days": 3}}
    await asyncio.to_thread(store.put, f"{prefix}left", b"x")
    await asyncio.to_thread(store.put, f"{prefix}own-silo", b"x")
    await asyncio.to_thread(store.put, f"octopus/not-{tmp_path.name}/left", b"x")
    await asyncio.to_thread(store.begin, f"{prefix}begun")
    rules = await asyncio.to_thread(store.rules)
    await asyncio.to_thread(store.set_rules, [*rules, other])
    async with sides(tmp_path, seaweed, "alpha") as (server, _):
        await server.until_names(lambda names: names == [f"{prefix}own-silo"])

        async def swept() -> bool:
            return not await server.uploads() and len(await server.ask(store.rules)) == len(rules) + 2

        await asked_until(swept)
        assert await server.ask(store.size, f"octopus/not-{tmp_path.name}/left") == 1
        found = {rule["ID"]: rule for rule in await server.ask(store.rules)}
        assert other["ID"] in found, "the bucket's other rules stay"
        ours = found[lifecycle_rule(prefix)["ID"]]
        assert ours["Filter"] == {"Prefix": prefix} and ours["Expiration"]["Days"] > 0
    store.close()


def test_the_example_rule_is_the_one_that_is_set() -> None:
    example = json.loads((RESOURCES / "lifecycle.json").read_text())
    assert example == {"Rules": [lifecycle_rule("octopus/FEDERATION/")]}
    for name in ("policy.json", "policy-silo.json"):
        assert json.loads((RESOURCES / name).read_text())["Statement"]


async def test_an_update_of_a_run_that_ended_is_removed_though_its_upload_never_ends(
    tmp_path: Path, seaweed: Seaweed
) -> None:
    async with sides(tmp_path, seaweed, "alpha") as (server, _):
        assert server.intake is not None and server.keeper is not None
        ref = BlobRef(digest="ab" * 32, size=12 * MIB)
        part_bytes = store_transfer.Layout.of(12 * MIB, 0).part_bytes
        wanted = PartsWanted(run_id="run-a", blob=ref, stored=sealed_size(ref.size), part_bytes=part_bytes)
        await server.intake.urls("alpha", wanted)
        assert len(await server.uploads()) == 1
        server.owner.closed_runs.add("run-a")
        server.keeper.changed()

        async def gone() -> bool:
            return not await server.uploads()

        await asked_until(gone)
