"""What all calls of the local API share: token, faults, remembered answers, the socket. Knows no noun.

Each servicer is a plain object whose async methods take a request and return a message (or iterate messages, where
the proto says stream). Errors leave as trailing metadata; an error that is no UserError is a bug, is logged, and
leaves as INTERNAL.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf import message_factory
from google.protobuf.message import Message

from octopus_desktop.daemon.core import Silo, current_command
from octopus_desktop.system.endpoint import OPTIONS, TOKEN_METADATA, create_token, fault_metadata
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2

log = logging.getLogger(__name__)


def status_of(code: str) -> grpc.StatusCode:
    """The gRPC status that goes with an error code."""
    if code == "OCT-DAEMON-TOKEN":
        return grpc.StatusCode.UNAUTHENTICATED
    if code.endswith("-UNKNOWN"):
        return grpc.StatusCode.NOT_FOUND
    if code in ("OCT-DAEMON-SLOW",):
        return grpc.StatusCode.ABORTED
    if code.endswith(("-STATE", "-LOCKED", "-NEWER", "-FULL", "-DOWN", "-EXISTS", "-PROTOCOL")):
        return grpc.StatusCode.FAILED_PRECONDITION
    return grpc.StatusCode.INVALID_ARGUMENT


class LocalApi:
    """Serves ``servicers`` (service name -> object) on a Unix socket in a private directory."""

    def __init__(self, silo: Silo, servicers: Mapping[str, Any]) -> None:
        self._silo = silo
        self._running: dict[str, asyncio.Future[Message]] = {}
        self._server = grpc.aio.server(options=OPTIONS)
        for service in local_pb2.DESCRIPTOR.services_by_name.values():
            if service.name not in servicers:
                continue
            handlers = {m.name: self._handler(m, getattr(servicers[service.name], m.name)) for m in service.methods}
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
        self._token = ""

    async def start(self, socket: Path) -> None:
        """Bind and serve. grpcio makes its socket readable for all, so the umask is narrowed while it binds."""
        self._token = create_token(socket)
        socket.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            if not self._server.add_insecure_port(f"unix:{socket}"):
                raise UserError(
                    "OCT-PORT-USED",
                    f"The local API could not listen on {socket}.",
                    "The socket could not be made.",
                    "Look who owns the directory, and whether its path is longer than 100 bytes.",
                )
        finally:
            os.umask(before)
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    def _handler(self, method: Any, function: Any) -> grpc.RpcMethodHandler:
        request_type = message_factory.GetMessageClass(method.input_type)
        if method.server_streaming:

            async def stream(request: Any, context: Any) -> AsyncIterator[Message]:
                await self._guard_token(context)
                try:
                    async for message in function(request):
                        yield message
                except UserError as error:
                    await _abort(context, error)
                except (asyncio.CancelledError, GeneratorExit):
                    raise
                except Exception:
                    log.exception("%s failed", method.full_name)
                    await context.abort(grpc.StatusCode.INTERNAL, f"{method.full_name} failed; see the daemon's log")

            return grpc.unary_stream_rpc_method_handler(
                stream, request_deserializer=request_type.FromString, response_serializer=_serialise
            )

        async def unary(request: Any, context: Any) -> Message | None:
            await self._guard_token(context)
            try:
                return await self._once(method.full_name, method.output_type, function, request)
            except UserError as error:
                await _abort(context, error)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.exception("%s failed", method.full_name)
                await context.abort(grpc.StatusCode.INTERNAL, f"{method.full_name}: {type(error).__name__}: {error}")
            return None

        return grpc.unary_unary_rpc_method_handler(
            unary, request_deserializer=request_type.FromString, response_serializer=_serialise
        )

    async def _once(self, method: str, output: Any, function: Any, request: Any) -> Message:
        """Carry a command out once for each request id; a repetition waits for, or gets, the first one's answer.

        A client that goes away does not cancel a command that has begun.
        """
        request_id = getattr(request, "request_id", "")
        if not request_id:
            return await function(request)
        known = self._silo.db.answer_of(request_id)
        if known:
            if known[0] != method:
                raise UserError(
                    "OCT-CONFIG-INVALID",
                    "This request id belongs to another command.",
                    f"It was used for {known[0]}.",
                    "Make a new id for each command.",
                )
            return message_factory.GetMessageClass(output).FromString(known[1])
        running = self._running.get(request_id)
        if running is None:
            running = asyncio.ensure_future(self._carry_out(request_id, method, function, request))
            self._running[request_id] = running
            running.add_done_callback(lambda _: self._running.pop(request_id, None))
        return await asyncio.shield(running)

    async def _carry_out(self, request_id: str, method: str, function: Any, request: Any) -> Message:
        current_command.set((request_id, method))
        answer: Message = await function(request)
        self._silo.db.remember(request_id, method, answer)
        return answer

    async def _guard_token(self, context: Any) -> None:
        given = dict(context.invocation_metadata() or ()).get(TOKEN_METADATA, "")
        if not hmac.compare_digest(str(given).encode(), self._token.encode()):
            await _abort(
                context,
                UserError(
                    "OCT-DAEMON-TOKEN",
                    "The local API did not let this call in.",
                    "Its token is missing or wrong; each start of the daemon makes a new one.",
                    "Connect again; the token lies beside the socket, readable only for its owner.",
                ),
            )


async def _abort(context: Any, error: UserError) -> None:
    await context.abort(status_of(error.code), error.what, fault_metadata(error))


def _serialise(message: Message) -> bytes:
    return message.SerializeToString()
