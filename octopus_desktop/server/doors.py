"""What every call at the server shares: who may pass, faults in trailing metadata, bugs in the log. Knows no noun.

A servicer is a plain object whose async methods bear the proto's names. They take ``(request, caller)`` (an iterator
of requests where the proto says stream) and return a message, or iterate messages where the proto says stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from octopus_desktop.communication.grpc_wire import abort
from octopus_desktop.wire.errors import UserError

log = logging.getLogger(__name__)

Guard = Callable[[Any, str], Any]  # (context, method's name) -> caller; raises UserError


def mount(server: grpc.aio.Server, service: ServiceDescriptor, servicer: Any, guard: Guard) -> None:
    """Serve every method of the proto's service by the servicer's method of the same name."""
    handlers = {m.name: _handler(m, getattr(servicer, m.name), guard) for m in service.methods}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))


def _handler(method: MethodDescriptor, function: Any, guard: Guard) -> grpc.RpcMethodHandler:
    request_type = message_factory.GetMessageClass(method.input_type)
    wire = {
        "request_deserializer": request_type.FromString,
        "response_serializer": lambda message: message.SerializeToString(),
    }
    if method.server_streaming:

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            async with _Faults(method.full_name, context):
                caller = guard(context, method.name)
                async for message in function(request, caller):
                    yield message

        return grpc.unary_stream_rpc_method_handler(stream, **wire)

    async def unary(request: Any, context: Any) -> Any:
        async with _Faults(method.full_name, context):
            answer: Awaitable[Any] = function(request, guard(context, method.name))
            return await answer

    make = grpc.stream_unary_rpc_method_handler if method.client_streaming else grpc.unary_unary_rpc_method_handler
    return make(unary, **wire)


class _Faults:
    """Ends the call with the UserError's fault, or, for a bug, with INTERNAL and a traceback in the log."""

    def __init__(self, method: str, context: Any) -> None:
        self._method, self._context = method, context

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, asyncio.CancelledError | GeneratorExit | grpc.aio.AbortError):
            return
        if isinstance(error, UserError):
            await abort(self._context, error)
        log.error("%s failed", self._method, exc_info=error)
        await self._context.abort(grpc.StatusCode.INTERNAL, f"{self._method} failed; see the server's log")
