"""The steps that every check of a link is made of: a chain in which a failed step holds up the next ones, and dialling
taken apart into name, route, proxy, TLS and certificate. Knows no carrier.

What blocks runs in threads with time limits of its own; nothing is sent but what a connection's beginning takes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509

from octopus_desktop.communication.grpc_wire import Proxy
from octopus_desktop.identity.certificates import load, to_pem
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

STEP_S = 10.0
CLOCK_S = 120.0  # beyond that, sealed sessions and signed URLs are refused
SOON_DAYS = 7
HEAD_BYTES = 16 << 10
NOT_TRIED = "Not tried: an earlier step failed."


class Failed(Exception):
    """A step did not succeed; with what a person may do."""

    def __init__(self, detail: str, next_step: str) -> None:
        super().__init__(detail)
        self.next_step = next_step

    @classmethod
    def of(cls, error: UserError) -> Failed:
        return cls(f"{error.what} {error.why} [{error.code}]", error.next_step or "It is tried again by itself.")


class Untested(Exception):
    """A step cannot be tried from here; its text says why."""


class Chain:
    """Steps of one carrier in their order. After a failed one the rest is marked as not tried, but for those that stand
    ``apart``."""

    def __init__(self, carrier: str) -> None:
        self.carrier = carrier
        self.steps: list[pb.CheckStep] = []
        self.broken = False

    async def step(self, name: str, work: Callable[[], Any], *, apart: bool = False) -> bool:
        """``work`` returns what to say, raises Failed, Untested or UserError; it may be a coroutine function, else it
        is called in a thread."""
        entry = pb.CheckStep(name=name, carrier=self.carrier, state="ok")
        self.steps.append(entry)
        if self.broken and not apart:
            entry.state, entry.detail = "untried", NOT_TRIED
            return False
        began = time.perf_counter()
        try:
            async with asyncio.timeout(STEP_S + 2):
                entry.detail = await (work() if asyncio.iscoroutinefunction(work) else asyncio.to_thread(work))
        except Untested as reason:
            entry.state, entry.detail = "untried", str(reason)
        except (Failed, UserError) as error:
            failed = error if isinstance(error, Failed) else Failed.of(error)
            entry.state, entry.detail, entry.next_step = "failed", str(failed), failed.next_step
        except TimeoutError:
            entry.state, entry.detail = "failed", f"No answer within {STEP_S:.0f} s."
            entry.next_step = "Look whether a firewall drops outgoing connections to this address and port."
        entry.ms, entry.ok = round((time.perf_counter() - began) * 1000, 1), entry.state == "ok"
        self.broken = self.broken or (entry.state == "failed" and not apart)
        return entry.ok


@dataclass(slots=True)
class Dial:
    """One way to ``host:port``, step by step. ``who``: what is there, as people call it. ``ours``: our key and
    certificate (PEM), where TLS is mutual. ``believed``: PEM CAs; the system's where there are none, or with
    ``systems``."""

    who: str
    host: str
    port: int
    proxy: Proxy = field(default_factory=Proxy)
    believed: str = ""
    systems: bool = False
    ours: bytes = field(default=b"", repr=False)
    alpn: tuple[str, ...] = ()
    least: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    sock: socket.socket | None = None
    theirs: x509.Certificate | None = None

    @property
    def first(self) -> tuple[str, int]:
        """Where the first connection goes: to the proxy, where there is one."""
        if not self.proxy.url:
            return self.host, self.port
        parts = urlsplit(self.proxy.url)
        return parts.hostname or "", parts.port or 0

    async def reach(self, chain: Chain) -> None:
        """Name, route and, where there is one, proxy."""
        await chain.step("name", self.name)
        await chain.step("route", self.route)
        if self.proxy.url:
            await chain.step("proxy", self.tunnel)

    def name(self) -> str:
        host, port = self.first
        beyond = f" {self.host} is looked up by the proxy." if self.proxy.url else ""
        try:
            ipaddress.ip_address(host)
            return f"{host} is an address already.{beyond}"
        except ValueError:
            pass
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Failed(
                f"{host} cannot be resolved: {error.strerror or error}.",
                "Check the name for a slip, and the DNS settings of this machine.",
            ) from error
        return ", ".join(sorted({str(entry[4][0]) for entry in found})) + f".{beyond}"

    def route(self) -> str:
        host, port = self.first
        what = "the proxy" if self.proxy.url else self.who
        try:
            self.sock = socket.create_connection((host, port), timeout=STEP_S)
        except TimeoutError as error:
            raise Failed(
                f"{host}:{port} does not answer within {STEP_S:.0f} s: what is sent there is dropped.",
                f"Ask your network's administrators to let connections to {host}, port {port} (TCP) out.",
            ) from error
        except ConnectionRefusedError as error:
            raise Failed(
                f"{host}:{port} refuses the connection: nothing listens there, or a firewall says no.",
                f"Check that {what} runs, and the port.",
            ) from error
        except OSError as error:
            raise Failed(
                f"No connection to {host}:{port}: {error.strerror or error}.",
                f"Check this machine's network, and the way to {what}.",
            ) from error
        return f"{host}:{port} accepts connections."

    def tunnel(self) -> str:
        """Ask the HTTP proxy for a way (RFC 9110, section 9.3.6)."""
        assert self.sock is not None
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [f"CONNECT {host}:{self.port} HTTP/1.1", f"Host: {host}:{self.port}"]
        if self.proxy.authorization:
            lines.append(f"Proxy-Authorization: {self.proxy.authorization}")
        answer = bytearray()
        try:
            self.sock.sendall("\r\n".join([*lines, "", ""]).encode())
            while not answer.endswith(b"\r\n\r\n") and len(answer) < HEAD_BYTES:
                byte = self.sock.recv(1)  # one by one: what follows belongs to TLS
                if not byte:
                    break
                answer += byte
        except OSError as error:
            raise Failed(f"It broke the connection: {error.strerror or error}.", "Ask who runs the proxy.") from error
        status = answer.split(b"\r\n", 1)[0].decode("latin-1")[:120]
        code = status.split(" ")[1] if status.startswith("HTTP/") and " " in status else ""
        if code == "200":
            return f"{self.proxy.url} gives a way to {self.host}:{self.port}."
        if code == "407":
            words = "does not take the login that is set" if self.proxy.username else "wants a login"
            raise Failed(
                f"{self.proxy.url} {words} ({status}).",
                "Set user and password: 'octopus federation carrier set FEDERATION CARRIER --user NAME --password'.",
            )
        if code:
            raise Failed(
                f"{self.proxy.url} gives no way: {status}.",
                f"Ask your network's administrators to allow CONNECT to {self.host}, port {self.port}.",
            )
        raise Failed(f"{self.proxy.url} speaks no HTTP.", "Check the proxy's host and port.")

    def handshake(self) -> str:
        """TLS over what ``route`` or ``tunnel`` opened; keeps their certificate."""
        assert self.sock is not None
        context = self.context()
        try:
            if self.ours:
                _load_own(context, self.ours)
            with context.wrap_socket(self.sock, server_hostname=self.host) as talk:
                self.theirs = load(talk.getpeercert(binary_form=True) or b"")
                cipher = talk.cipher()
                return f"{talk.version()}, {cipher[0] if cipher else ''}."
        except ssl.SSLCertVerificationError as error:
            raise self._not_believed(error) from error
        except (ssl.SSLError, OSError) as error:
            raise Failed(
                f"The handshake with {self.who} failed: {_words(error)}.",
                "Look whether the port is the right one, and whether something between reads or changes TLS.",
            ) from error
        finally:
            self.close()

    def their_certificate(self) -> str:
        """How long theirs is good, from the handshake."""
        if self.theirs is None:
            raise Untested(NOT_TRIED)
        days = (self.theirs.not_valid_after_utc.timestamp() - time.time()) / 86400
        text = f"Theirs is for {_holder(self.theirs)}, valid for {days:.0f} more days."
        return text + (f" It ends soon: tell {self.who}'s administrator." if days < SOON_DAYS else "")

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = self.least
        if self.alpn:
            context.set_alpn_protocols(list(self.alpn))
        try:
            if self.systems or not self.believed:
                context.load_default_certs()
            if self.believed:
                context.load_verify_locations(cadata=self.believed)
        except (ssl.SSLError, ValueError) as error:
            raise Failed(f"The CA's certificate cannot be read: {_words(error)}.", "Correct it.") from error
        return context

    def _not_believed(self, error: ssl.SSLCertVerificationError) -> Failed:
        seen = self._look()
        shown = f" It is for {_holder(seen)}, from {seen.issuer.rfc4514_string()[:120]}" if seen else ""
        code = error.verify_code
        if code in (62, 64):  # X509_V_ERR_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH
            return Failed(
                f"Their certificate is for another name than {self.host}.{shown}.",
                f"Use the name that stands in it, or ask {self.who}'s administrator for a certificate for {self.host}.",
            )
        if code == 10:  # X509_V_ERR_CERT_HAS_EXPIRED
            ended = f" It ended on {seen.not_valid_after_utc:%Y-%m-%d %H:%M} UTC." if seen else ""
            return Failed(
                f"Their certificate is past its validity, or this machine's clock is wrong.{ended}",
                f"Check this machine's clock; if it is right, {self.who}'s administrator must renew the certificate.",
            )
        if code == 9:  # X509_V_ERR_CERT_NOT_YET_VALID
            return Failed(
                "Their certificate is not valid yet, or this machine's clock is wrong.", "Check this machine's clock."
            )
        return Failed(
            f"Their certificate comes from a CA that is not believed here ({error.verify_message}).{shown}.",
            "Compare the CA's fingerprint with the coordinator. If something of your own reads TLS, such as a gateway, "
            "give its CA as the own side's CA file.",
        )

    def _look(self) -> x509.Certificate | None:
        """Their certificate, believed or not, by a second connection that shows nothing of ours."""
        self.close()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            self.route()
            if self.proxy.url:
                self.tunnel()
            assert self.sock is not None
            with context.wrap_socket(self.sock, server_hostname=self.host) as talk:
                return load(talk.getpeercert(binary_form=True) or b"")
        except (OSError, ValueError, Failed):
            return None
        finally:
            self.close()


def clock_words(off_s: float, whom: str) -> str:
    """What an offset to the other side's clock means. Raises Failed beyond ``CLOCK_S``."""
    way = "ahead of" if off_s > 0 else "behind"
    amount = f"{abs(off_s):.1f} s" if abs(off_s) < 90 else f"{abs(off_s) / 60:.0f} minutes"
    if abs(off_s) > CLOCK_S:
        raise Failed(
            f"The clock of {whom} is {amount} {way} this machine's; 2 minutes is the most.",
            "Set this machine's clock by NTP (Linux: timedatectl set-ntp true); if it is right, tell the coordinator.",
        )
    return f"The clock of {whom} is {amount} {way} this machine's."


def _load_own(context: ssl.SSLContext, pem: bytes) -> None:
    """OpenSSL's binding takes files only: private ones, in memory where the system has such, gone at once."""
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.NamedTemporaryFile(dir=place) as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)


def own_pem(key_pem: bytes, certificate_der: bytes) -> bytes:
    return to_pem(certificate_der) + key_pem


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return str(error.reason).replace("_", " ").lower()
    if isinstance(error, TimeoutError):
        return f"no answer within {STEP_S:.0f} s"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _holder(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = [str(name.value) for name in names]
    except x509.ExtensionNotFound:
        found = []
    return ", ".join(found[:4]) or certificate.subject.rfc4514_string() or "nobody"
