"""How a broker is dialled: its address and login, whom TLS believes, and the way through an HTTP CONNECT proxy.

Knows neither MQTT nor mail. Everything here blocks and is called in a thread.
"""

from __future__ import annotations

import base64
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from octopus_desktop.communication import mqtt_faults as faults
from octopus_desktop.wire.errors import UserError

DIAL_S = 10.0  # for the TCP connection, and again for the TLS handshake
_ANSWER_BYTES = 16 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """Where a broker is, and how this side shows itself there.

    Attributes:
        ca_pem, ca_file: CAs that are believed; the system's where both are empty.
        proxy: ``http://[user:password@]host:port`` of an HTTP CONNECT proxy.
    """

    host: str
    port: int
    tls: bool = True
    ca_pem: str = ""
    ca_file: str = ""
    proxy: str = field(default="", repr=False)
    username: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def dialled(self) -> tuple[str, int]:
        """Host and port of the TCP connection: the proxy's, where there is one.

        Raises:
            UserError: OCT-CONFIG-INVALID for a proxy that cannot be used.
        """
        if not self.proxy:
            return self.host, self.port
        if not self.tls:
            raise _bad("proxy", "a connection without TLS does not go through a proxy", "Use a broker with TLS.")
        parts = urlsplit(self.proxy)
        try:
            port = parts.port or 3128
        except ValueError:
            port = 0
        if parts.scheme != "http" or not parts.hostname or not port:
            raise _bad("proxy", "it is not of the form http://host:port", "Correct it.")
        return parts.hostname, port

    def context(self) -> ssl.SSLContext:
        """A TLS context whose sockets speak to the broker, through the proxy where there is one.

        Raises:
            UserError: OCT-CONFIG-INVALID for a CA that cannot be read.
        """
        context = _Tunnel(ssl.PROTOCOL_TLS_CLIENT) if self.proxy else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if isinstance(context, _Tunnel):
            context.broker = self
        try:
            if self.ca_pem:
                context.load_verify_locations(cadata=self.ca_pem)
        except (ssl.SSLError, ValueError) as error:
            raise _bad("ca_pem", f"it holds no certificate: {error}", "Ask the coordinator to correct it.") from error
        try:
            if self.ca_file:
                context.load_verify_locations(cafile=Path(self.ca_file))
        except OSError as error:
            raise _bad("ca_file", f"{self.ca_file} cannot be used: {error}", "Correct it.") from error
        if not self.ca_pem and not self.ca_file:
            context.load_default_certs()
        return context


class _Tunnel(ssl.SSLContext):
    """Asks the proxy at the socket's other end for a tunnel before TLS begins, with the broker's name and not the
    proxy's. (paho's own way through a proxy needs one more package, and does nothing at all where that is missing.)"""

    broker: BrokerAddress

    def wrap_socket(self, sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:
        open_tunnel(sock, self.broker)
        options["server_hostname"] = self.broker.host
        return super().wrap_socket(sock, *args, **options)


def open_tunnel(sock: socket.socket, broker: BrokerAddress) -> None:
    """Let the HTTP proxy behind ``sock`` connect to the broker (RFC 9110, section 9.3.6).

    Raises:
        UserError: OCT-BROKER-DOWN with the proxy's answer.
    """
    host = f"[{broker.host}]" if ":" in broker.host else broker.host
    lines = [f"CONNECT {host}:{broker.port} HTTP/1.1", f"Host: {host}:{broker.port}"]
    parts = urlsplit(broker.proxy)
    if parts.username:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(login.encode()).decode()}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = bytearray()
    while not answer.endswith(b"\r\n\r\n"):  # one by one: what follows belongs to TLS
        byte = sock.recv(1)
        if not byte or len(answer) > _ANSWER_BYTES:
            raise _proxy_refused(broker, "It closed the connection.")
        answer += byte
    status = answer.split(b"\r\n", 1)[0].decode("latin-1")
    words = status.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/") or words[1] != "200":
        raise _proxy_refused(broker, f"It answered: {status[:200]}")


def _proxy_refused(broker: BrokerAddress, why: str) -> UserError:
    where = ":".join(str(part) for part in broker.dialled())
    return faults.down(
        str(broker),
        f"The proxy {where} does not connect to it. {why}",
        "Ask for the proxy to allow CONNECT to this host and port, or correct the proxy's address and login.",
    )


def _bad(key: str, why: str, next_step: str) -> UserError:
    return UserError("OCT-CONFIG-INVALID", "The connection to the MQTT broker cannot be set up.", f"{key}: {why}.",
                     next_step)  # fmt: skip
