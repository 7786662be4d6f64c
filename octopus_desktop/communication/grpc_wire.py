"""What both ends of the gRPC carrier share: channel settings, credentials, the chunk codec, and errors as statuses.

Knows nothing of mail: neither mailboxes nor what an envelope means.

Chunk (``contract.CHUNK_BYTES``) and window were measured on 2026-11-24, 100 MiB to one silo and back over loopback by
``tests.benchmarks.carrier``, best of 4 rounds, twice, on 2 cores that others used as well; so the CPU seconds of both
sides say more than the wall clock:

    chunk     window    CPU s          seconds        server's peak, MiB
    256 KiB   4 MiB     0.52           0.47           84
    1 MiB     1 MiB     0.43 to 0.47   0.31 to 0.44   79 to 99
    1 MiB     4 MiB     0.45 to 0.48   0.39 to 0.53   95 to 103
    1 MiB     16 MiB    0.48 to 0.49   0.41 to 0.43   104 to 124
    3 MiB     4 MiB     0.46 to 0.51   0.39 to 0.51   114 to 121

Beyond 1 MiB a chunk buys nothing and costs memory, below it costs CPU. The window does not matter on loopback; 4 MiB is
what a line of 40 MB/s with a round trip of 100 ms needs, and more is memory for each silo.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from octopus_desktop.communication.links import link_down
from octopus_desktop.communication.settings import OwnSide, Secrets, own_ca
from octopus_desktop.wire.errors import FAULT_METADATA, UserError
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef
from octopus_desktop.wire.pb.federation_pb2 import Chunk, Fault

SERVICE = "octopus.v1.Carrier"
MESSAGE_LIMIT_BYTES = 4 << 20
KEEPALIVE_MS = 20_000
WINDOW_BYTES = 4 << 20  # bytes of one stream on the way: 40 MB/s at a round trip of 100 ms

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.bdp_probe", 0),  # its estimate grows with a slow receiver, and the memory with it
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
]
SERVER_OPTIONS: list[tuple[str, Any]] = [
    *OPTIONS,
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    ("grpc.so_reuseport", 0),  # a port that is in use is an error, not a share
]

_DATA_TAG = Chunk.DESCRIPTOR.fields_by_name["data"].number << 3 | 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCredentials:
    """What a silo shows and trusts; all PEM. The key never leaves the process and is not shown by ``repr``."""

    root: bytes
    key: bytes
    chain: bytes

    def __repr__(self) -> str:
        return "ClientCredentials(...)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """An HTTP CONNECT proxy. ``url``: ``http://host:port``, or "" for none; user and password, where it asks for them,
    are kept apart from it, so that no log or message can show them."""

    url: str = ""
    username: str = ""
    password: str = ""

    @classmethod
    def of(cls, own: OwnSide | None, secrets: Secrets | None) -> Proxy:
        """The proxy that a silo's own side of gRPC names."""
        if own is None:
            return cls()
        return cls(url=own.proxy, username=own.username, password=secrets.password if secrets else "")

    def __repr__(self) -> str:
        return f"Proxy(url={self.url!r}, ...)"

    @property
    def authorization(self) -> str:
        """The value of Proxy-Authorization (RFC 7617), or "" without a user."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode() if self.username else ""


@dataclass(frozen=True, slots=True)
class Piece:
    """A received chunk. ``data`` is a view into the message that came: nothing was copied."""

    blob: BlobRef | None
    offset: int
    run_id: str
    data: memoryview


def server_credentials(*, root: bytes, key: bytes, chain: bytes) -> grpc.ServerCredentials:
    """Mutual TLS: clients must show a certificate that ``root`` issued. All PEM. That nothing below TLS 1.3 gets in is
    set where the package is first imported, for gRPC reads it once, when it is loaded."""
    return grpc.ssl_server_credentials([(key, chain)], root_certificates=root, require_client_auth=True)


def with_own_ca(credentials: ClientCredentials, own: OwnSide | None) -> ClientCredentials:
    """The same, with the CA of the site's own beside the federation's, for sites where a gateway of their own stands
    in for the server. Raises OCT-CONFIG-INVALID."""
    return replace(credentials, root=credentials.root + own_ca(own)) if own and own.ca_file else credentials


def client_channel(
    address: str, credentials: ClientCredentials, *, server_name: str = "", proxy: Proxy | None = None
) -> grpc.aio.Channel:
    """A channel with a TCP connection of its own. The proxy is the one that was set for this federation, or none:
    https_proxy and no_proxy of the environment are ignored, for a daemon has another environment than its
    administrator, and what it dials must not depend on who started it."""
    options: list[tuple[str, Any]] = [
        *OPTIONS,
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 1 if proxy and proxy.url else 0),
    ]
    if proxy and proxy.url:
        # asked before no_proxy, which gRPC would heed even for an explicit proxy
        os.environ["no_grpc_proxy"] = ""  # noqa: SIM112 (gRPC reads the name in this case)
        options.append(("grpc.http_proxy", proxy.url))
        if proxy.authorization:  # not as user:password@ in the URL: there, some signs in a password end it
            options.append(("grpc.http_connect_headers", f"Proxy-Authorization:{proxy.authorization}"))
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    creds = grpc.ssl_channel_credentials(credentials.root, credentials.key, credentials.chain)
    return grpc.aio.secure_channel(address, creds, options=options)


# chunks: data is written and read by hand, for protobuf would copy each byte twice more at both ends


def encode_head(blob: BlobRef, offset: int, run_id: str) -> bytes:
    """The first ``Chunk`` of a transfer: says what comes, and from where; bears no data."""
    return Chunk(blob=blob, offset=offset, run_id=run_id).SerializeToString()


def encode_data(data: bytes) -> bytes:
    """A further ``Chunk``, serialised; one copy."""
    length, head = len(data), bytearray((_DATA_TAG,))
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return b"".join((head, data))


def decode_chunk(message: bytes) -> Piece:
    """A ``Chunk`` message, whoever wrote it. Raises ValueError when it is none."""
    if message[:1] == bytes((_DATA_TAG,)):
        length, shift, at = 0, 0, 1
        while at < min(len(message), 6):
            byte = message[at]
            length |= (byte & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if byte < 0x80:
                if at + length == len(message):
                    return Piece(None, 0, "", memoryview(message)[at:])
                break
    try:
        chunk = Chunk.FromString(message)
    except DecodeError as error:
        raise ValueError("not a Chunk message") from error
    return Piece(chunk.blob if chunk.HasField("blob") else None, chunk.offset, chunk.run_id, memoryview(chunk.data))


# errors


STATUS = {
    "OCT-LINK-TLS": grpc.StatusCode.UNAUTHENTICATED,
    "OCT-CERT-REVOKED": grpc.StatusCode.UNAUTHENTICATED,
    "OCT-CERT-EXPIRED": grpc.StatusCode.UNAUTHENTICATED,
    "OCT-ENROL-ROLE": grpc.StatusCode.PERMISSION_DENIED,
    "OCT-BLOB-FORBIDDEN": grpc.StatusCode.PERMISSION_DENIED,
    "OCT-BLOB-MISSING": grpc.StatusCode.NOT_FOUND,
    "OCT-BLOB-CORRUPT": grpc.StatusCode.DATA_LOSS,
    "OCT-BLOB-OFFSET": grpc.StatusCode.ABORTED,
    "OCT-DISK-FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
}


async def abort(context: Any, error: UserError) -> NoReturn:
    """End a call with a UserError in its trailing metadata."""
    await context.abort(
        STATUS.get(error.code, grpc.StatusCode.FAILED_PRECONDITION),
        error.what,
        ((FAULT_METADATA, error.to_fault().SerializeToString()),),
    )
    raise AssertionError("abort returned")


def to_user_error(error: grpc.RpcError, address: str, proxy: str = "") -> UserError:
    """What a failed call means to a person: the other side's own fault, or what the link says. ``proxy``: the URL of
    the proxy on the way, if there is one."""
    for key, value in error.trailing_metadata() or ():
        if key == FAULT_METADATA:
            return UserError.from_fault(Fault.FromString(value))
    details = error.details() or ""
    lowered = details.lower()
    if proxy and (fault := _proxy_fault(lowered, address, proxy)):
        return fault
    if any(word in lowered for word in ("certificate", "ssl_error", "tsi_protocol", "peer name", "hostname verif")):
        return UserError(
            "OCT-LINK-TLS",
            f"The secure connection to {address} was refused.",
            f"The TLS handshake failed: {details[:300]}",
            "Check that the address is the federation's own, and that nothing between intercepts TLS.",
        )
    return link_down(address, details or str(error.code()))


def _proxy_fault(details: str, address: str, proxy: str) -> UserError | None:
    if "response code 407" in details:
        why, next_step = (
            "It asks for a user and a password, or does not take those that are set (407).",
            "Set them with 'octopus federation carrier set FEDERATION grpc --user NAME --password'.",
        )
    elif "http proxy returned response code" in details:
        code = details.rpartition("response code")[2].strip()[:3]
        why, next_step = (
            f"It answered with {code}: it does not let this connection out, or does not reach its target.",
            f"Ask your network's administrators to let CONNECT to {address} pass.",
        )
    elif "expected 'h'" in details or "http response was too large" in details:
        why, next_step = "What answers there speaks no HTTP.", "Check the proxy's host and port."
    elif "handshak" in details or "certificate" in details or "hostname verif" in details:
        return None  # beyond the proxy
    elif "failed to connect to remote host" in details or "resolving" in details:
        why, next_step = details.rpartition("error:")[2].strip()[:200] or details[:200], "Check its host and port."
    else:
        return None
    return proxy_fault(proxy, address, why, next_step)


def proxy_fault(proxy: str, address: str, why: str, next_step: str) -> UserError:
    return UserError("OCT-LINK-PROXY", f"The proxy {proxy} gives no way to {address}.", why, next_step)
