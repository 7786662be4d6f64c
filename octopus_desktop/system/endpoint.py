"""A private gRPC endpoint on this machine: a Unix socket with a token beside it, and clients for it.

The daemon's local API and the server's operator API both use it. The directory (0700) and the token carry the access;
the client also checks who owns the socket. Knows nothing of any service behind it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octopus_desktop.system.paths import private_dir
from octopus_desktop.wire.errors import FAULT_METADATA, UserError
from octopus_desktop.wire.pb.federation_pb2 import Fault

if TYPE_CHECKING:
    import grpc
    import grpc.aio

TOKEN_METADATA = "x-octopus-token"
OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.use_local_subchannel_pool", 1),  # a new client must not wait out the back-off of one that met a dead socket
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


def token_path(socket: Path) -> Path:
    return socket.with_suffix(".token")


def create_token(socket: Path) -> str:
    """Make the private directory and a fresh token file (0600) beside the socket; returns the token."""
    private_dir(socket.parent)
    path, token = token_path(socket), secrets.token_urlsafe(32)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token)
    return token


def read_token(socket: Path, away: Callable[[], UserError]) -> str:
    """The token, after checking that the socket is there and ours. Raises ``away()`` when there is no endpoint."""
    try:
        if hasattr(os, "getuid") and socket.stat().st_uid != os.getuid():
            raise PermissionError(f"{socket} belongs to another user")
        return token_path(socket).read_text()
    except FileNotFoundError as error:
        raise away() from error


def sync_channel(socket: Path, token: str) -> grpc.Channel:
    """A blocking channel whose calls bear the token and raise UserError where the other side sent a fault."""
    import grpc

    return grpc.intercept_channel(grpc.insecure_channel(f"unix:{socket}", options=OPTIONS), _sync_interceptor(token))


def aio_channel(socket: Path, token: str) -> grpc.aio.Channel:
    """An asyncio channel whose calls bear the token. Pass failures through ``to_user_error``."""
    import grpc.aio

    # grpc.aio sorts an interceptor into one kind of call only, so each kind has its own class.
    class BearUnary(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return await continuation(_with_token_aio(details, token), request)

    class BearStream(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
        async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
            return await continuation(_with_token_aio(details, token), request)

    return grpc.aio.insecure_channel(f"unix:{socket}", options=OPTIONS, interceptors=[BearUnary(), BearStream()])


def to_user_error(error: Any, away: Callable[[], UserError]) -> UserError | None:
    """The UserError inside an RpcError: the fault in its trailing metadata, or ``away()`` when nobody answers; else
    None (a bug at the other side)."""
    import grpc

    for key, value in error.trailing_metadata() or ():
        if key == FAULT_METADATA:
            return UserError.from_fault(Fault.FromString(value))
    return away() if error.code() == grpc.StatusCode.UNAVAILABLE else None


def fault_metadata(error: UserError) -> tuple[tuple[str, bytes], ...]:
    """Trailing metadata that carries a UserError."""
    return ((FAULT_METADATA, error.to_fault().SerializeToString()),)


def _with_token_aio(details: Any, token: str) -> Any:
    import grpc.aio

    metadata = grpc.aio.Metadata(*(details.metadata or ()), (TOKEN_METADATA, token))
    return grpc.aio.ClientCallDetails(
        details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
    )


def _sync_interceptor(token: str) -> Any:
    import collections

    import grpc

    base = collections.namedtuple("base", "method timeout metadata credentials wait_for_ready compression")

    class Details(base, grpc.ClientCallDetails):
        pass

    class Bear(
        grpc.UnaryUnaryClientInterceptor,
        grpc.UnaryStreamClientInterceptor,
        grpc.StreamUnaryClientInterceptor,
        grpc.StreamStreamClientInterceptor,
    ):
        def _go(self, continuation: Any, details: Any, request: Any) -> Any:
            metadata = [*(details.metadata or ()), (TOKEN_METADATA, token)]
            return continuation(
                Details(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready, None),
                request,
            )

        intercept_unary_unary = _go
        intercept_unary_stream = _go
        intercept_stream_unary = _go
        intercept_stream_stream = _go

    return Bear()
