"""A silo behind a hospital's proxy: enrolled through it, linked through it, renewed through it, checked through it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from tests.communication.connect_proxy import ConnectProxy
from tests.daemon.scripted import scripted_federation
from tests.daemon.silo_process import SiloProcess, silo_process

LOGIN, PASSWORD = "nora:s3cret pass", b"s3cret pass"


async def enrol(silo: SiloProcess, text: str, proxy: ConnectProxy, **more: Any) -> pb.Federation:
    own = json.dumps({"proxy": proxy.url, "username": "nora"})
    request = pb.EnrolLocalRequest(text=text, name="north", own_json=own, request_id=new_id(), **more)
    found: pb.Federation = await silo.call("Federations.Enrol", request)
    return found


async def test_everything_goes_through_the_proxy_and_its_password_is_kept_in_the_store(tmp_path: Path) -> None:
    async with (
        scripted_federation(tmp_path / "fed") as federation,
        silo_process(tmp_path / "silo") as silo,
        ConnectProxy(login=LOGIN) as proxy,
    ):
        await silo.call("Setup.Configure", silo.configuration())
        got = await enrol(silo, federation.invite(), proxy, secret=PASSWORD)
        await silo.until(lambda s: next((f for f in s.federations if f.link == "up"), None))
        assert proxy.tunnels == 2 and set(proxy.asked) == {got.server}, "the call and the link"
        (carrier,) = got.carriers
        assert carrier.secret_kept and "s3cret" not in carrier.own_json
        new = await silo.call("Federations.Renew", pb.ById(id=got.id, request_id=new_id()))
        assert new.certificate_fingerprint != got.certificate_fingerprint and proxy.tunnels >= 3
        await silo.until(lambda s: s.federations[0].link == "up" and s.federations[0].link_since > got.link_since)
        check = await silo.call("Federations.Check", pb.ById(id=got.id))
        steps = {step.name: step for step in check.steps}
        assert steps["proxy"].state == steps["TLS"].state == "ok" and proxy.url in steps["proxy"].detail
        page = await silo.call("Logs.Page", pb.LogPageRequest(limit=500))
        assert not any("s3cret" in line.text for line in page.lines)
        for path in silo.home.root.rglob("*"):
            assert not path.is_file() or PASSWORD not in path.read_bytes(), path


async def test_a_proxy_that_says_no_is_named_and_nothing_is_kept(tmp_path: Path) -> None:
    async with (
        scripted_federation(tmp_path / "fed") as federation,
        silo_process(tmp_path / "silo") as silo,
        ConnectProxy(login=LOGIN) as proxy,
    ):
        await silo.call("Setup.Configure", silo.configuration())
        text = federation.invite()
        with pytest.raises(UserError) as raised:
            await enrol(silo, text, proxy, secret=b"wrong")
        assert raised.value.code == "OCT-LINK-PROXY" and proxy.url in raised.value.what and "407" in raised.value.why
        assert not (await silo.snapshot()).federations
        await enrol(silo, text, proxy, secret=PASSWORD)  # the same invitation is good still
