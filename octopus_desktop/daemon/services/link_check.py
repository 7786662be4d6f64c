"""Looks at a link step by step: name, route, TLS, certificate, clock, enrolment. Changes nothing."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from octopus_desktop.communication.contract import LinkPhase, LinkState
from octopus_desktop.identity.authority import check_address
from octopus_desktop.identity.certificates import load, read_peer, to_pem
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

STEP_S = 10.0


class Failed(Exception):
    """A step did not succeed; with what a person may do."""

    def __init__(self, detail: str, next_step: str) -> None:
        super().__init__(detail)
        self.next_step = next_step


async def examine(
    federation: pb.Federation, key_pem: bytes, certificate_der: bytes, ca_der: bytes, state: LinkState | None
) -> pb.CheckReply:
    """All steps, in order; those that need an earlier one which failed are left out."""
    host, port = check_address(federation.server)
    reply = pb.CheckReply()

    async def step(name: str, work: Callable[[], Awaitable[str]]) -> bool:
        began = time.perf_counter()
        entry = pb.CheckStep(name=name, ok=True)
        try:
            async with asyncio.timeout(STEP_S):
                entry.detail = await work()
        except Failed as error:
            entry.ok, entry.detail, entry.next_step = False, str(error), error.next_step
        except TimeoutError:
            entry.ok, entry.detail = False, f"No answer within {STEP_S:.0f} s."
            entry.next_step = "Look whether a firewall drops outgoing connections to this address and port."
        entry.ms = round((time.perf_counter() - began) * 1000, 1)
        reply.steps.append(entry)
        return entry.ok

    if await step("name", lambda: _name(host)) and await step("route", lambda: _route(host, port)):
        await step("TLS", lambda: _tls(host, port, key_pem, certificate_der, ca_der))
    await step("certificate", lambda: _certificate(certificate_der))
    await step("clock", lambda: _clock(certificate_der))
    await step("enrolment", lambda: _enrolment(state))
    return reply


async def _name(host: str) -> str:
    try:
        ipaddress.ip_address(host)
        return f"{host} is an address already."
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Failed(
            f"{host} cannot be resolved: {error.strerror}.", "Check the DNS settings of this machine."
        ) from error
    return ", ".join(sorted({str(entry[4][0]) for entry in found}))


async def _route(host: str, port: int) -> str:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        raise Failed(
            f"No connection to {host}:{port}: {error.strerror or error}.",
            "Ask the coordinator whether the server runs; look whether the firewall lets this port out.",
        ) from error
    writer.close()
    return f"{host}:{port} accepts connections."


async def _tls(host: str, port: int, key_pem: bytes, certificate_der: bytes, ca_der: bytes) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=ca_der)
    context.set_alpn_protocols(["h2"])
    _load_identity(context, certificate_der, key_pem)
    try:
        _, writer = await asyncio.open_connection(host, port, ssl=context)
    except (ssl.SSLError, OSError) as error:
        raise Failed(
            f"The handshake failed: {error}.",
            "Compare the CA fingerprint with the coordinator; look whether something between intercepts TLS.",
        ) from error
    try:
        talk = writer.get_extra_info("ssl_object")
        server = read_peer(talk.getpeercert(binary_form=True))
        return f"{talk.version()}, {talk.cipher()[0]}; the server is {server.name} ({server.fingerprint})."
    finally:
        writer.close()


def _load_identity(context: ssl.SSLContext, certificate_der: bytes, key_pem: bytes) -> None:
    """OpenSSL's binding takes files only: private ones, in memory where the system has such, gone at once."""
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.NamedTemporaryFile(dir=place) as file:
        file.write(to_pem(certificate_der) + key_pem)
        file.flush()
        context.load_cert_chain(file.name)


async def _certificate(certificate_der: bytes) -> str:
    peer = read_peer(certificate_der)
    days = (peer.not_after - time.time()) / 86400
    if days <= 0:
        raise Failed(f"Ours expired {-days:.0f} days ago.", "Ask the coordinator for a new invitation.")
    return f"Ours is {peer.name}, valid for {days:.0f} more days."


async def _clock(certificate_der: bytes) -> str:
    begins = load(certificate_der).not_valid_before_utc.timestamp()
    if time.time() < begins:
        raise Failed("This machine's clock stands before our certificate begins.", "Set the clock, best by NTP.")
    return time.strftime("It is %Y-%m-%d %H:%M:%S UTC here, within our certificate's validity.", time.gmtime())


async def _enrolment(state: LinkState | None) -> str:
    if state is None:
        raise Failed("No link is kept to this federation.", "Look into the daemon's log for the reason.")
    if state.phase is LinkPhase.UP:
        return f"The link is up, {state.latency_ms:.1f} ms."
    fault = state.fault or UserError("OCT-LINK-DOWN", f"The link is {state.phase.value}.")
    raise Failed(f"{fault.what} {fault.why} [{fault.code}]", fault.next_step or "It is tried again by itself.")
