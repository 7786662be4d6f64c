"""The asyncio thread behind ``Client``: connect, greet, watch, call, and begin again. Knows neither Qt nor widgets.

Everything goes out through ``deliver(callback, value)``, which the owner makes thread-safe. grpc is imported in the
thread, so that the window paints first.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from octopus_desktop import __version__
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2

PROTOCOL: Final = (1, 1)  # the range of local API versions that this window speaks
RETRY_FIRST_S, RETRY_MOST_S = 0.1, 2.0
STEADY_S = 2.0  # a connection that lasted this long was a good one: try again at once
CLOSE_S = 5.0
DRAIN_S = 0.02


class Connection:
    """One daemon's local API, tried again and again until ``close``."""

    def __init__(
        self,
        socket: Path,
        *,
        deliver: Callable[[Callable[[Any], None], Any], None],
        on_connected: Callable[[Any], None],
        on_disconnected: Callable[[UserError], None],
        on_read_only: Callable[[str], None],
        on_event: Callable[[Any], None],
    ) -> None:
        self._socket, self._deliver = socket, deliver
        self._on_connected, self._on_disconnected = on_connected, on_disconnected
        self._on_read_only, self._on_event = on_read_only, on_event
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="octopus-client", daemon=True)
        self._channel: Any = None
        self._boot_id, self._number = "", 0
        self._was_told_away = False
        self._watch: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._main: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._cancel_main)
            self._thread.join(CLOSE_S)
        elif not self._loop.is_closed():
            self._loop.close()

    def retry(self) -> None:
        self._soon(self._wake.set)

    def resync(self) -> None:
        self._soon(self._forget_and_watch)

    def call(
        self, method: str, request: Any, then: Callable[[Any], None], failed: Callable[[UserError], None]
    ) -> Callable[[], None]:
        """Start a unary call; returns what cancels it."""

        async def run() -> None:
            try:
                reply = await self._stub(method)(request)
            except Exception as error:
                self._deliver(failed, self._explain(error, method))
            else:
                self._deliver(then, reply)

        return self._spawn(run())

    def stream(
        self, method: str, request: Any, each: Callable[[Any], None], ended: Callable[[UserError | None], None]
    ) -> Callable[[], None]:
        """Start a server stream; returns what cancels it."""

        async def run() -> None:
            try:
                async for reply in self._stub(method)(request):
                    self._deliver(each, reply)
            except Exception as error:
                self._deliver(ended, self._explain(error, method))
            else:
                self._deliver(ended, None)

        return self._spawn(run())

    # In the thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            with suppress(asyncio.CancelledError):
                self._main = self._loop.create_task(self._keep_connected())
                self._loop.run_until_complete(self._main)
            rest = asyncio.all_tasks(self._loop)
            for task in rest:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
            if self._channel is not None:
                self._loop.run_until_complete(self._channel.close())
                # What grpc's core still tells of cancelled calls must find the loop open.
                self._loop.run_until_complete(asyncio.sleep(DRAIN_S))
        finally:
            self._loop.close()

    def _cancel_main(self) -> None:
        if self._main is not None:
            self._main.cancel()

    async def _keep_connected(self) -> None:
        wait = RETRY_FIRST_S
        while True:
            began = self._loop.time()
            try:
                await self._connect_and_watch()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                reason = self._explain(error, "Daemon.Watch")
            else:
                reason = self._away()
            if self._channel is not None:
                channel, self._channel = self._channel, None
                await channel.close()
                if self._loop.time() - began > STEADY_S:
                    wait = RETRY_FIRST_S
            if not self._was_told_away:
                self._was_told_away = True
                self._deliver(self._on_disconnected, reason)
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait * random.uniform(0.75, 1.25))
            wait = min(wait * 1.6, RETRY_MOST_S)

    async def _connect_and_watch(self) -> None:
        from octopus_desktop.system.endpoint import aio_channel, read_token

        token = await asyncio.to_thread(read_token, self._socket, self._away)
        channel = aio_channel(self._socket, token)
        try:
            hello = await self._greet(channel)
        except BaseException:
            await channel.close()
            raise
        self._channel = channel
        if hello.boot_id != self._boot_id:
            self._boot_id, self._number = hello.boot_id, 0
        self._was_told_away = False
        self._deliver(self._on_connected, hello)
        if not PROTOCOL[0] <= hello.protocol <= PROTOCOL[1]:
            self._deliver(self._on_read_only, self._misfit(hello.version))
        while True:
            self._watch = asyncio.ensure_future(self._watch_events(channel))
            try:
                await self._watch
                return
            except asyncio.CancelledError:
                if not self._watch.cancelled() or self._main is None or self._main.cancelling():
                    raise

    async def _greet(self, channel: Any) -> Any:
        import grpc

        from octopus_desktop.system.endpoint import to_user_error
        from octopus_desktop.wire.pb import local_pb2_grpc

        request = local_pb2.LocalHelloRequest(
            protocol_min=PROTOCOL[0], protocol_max=PROTOCOL[1], client="window", version=__version__
        )
        try:
            return await local_pb2_grpc.DaemonStub(channel).Hello(request)
        except grpc.aio.AioRpcError as error:
            told = to_user_error(error, self._away)
            if told is not None and told.code == "OCT-DAEMON-PROTOCOL":
                return local_pb2.LocalHelloReply(protocol=0)  # show what can be read, and say why nothing else works
            raise

    async def _watch_events(self, channel: Any) -> None:
        from octopus_desktop.wire.pb import local_pb2_grpc

        request = local_pb2.WatchRequest(boot_id=self._boot_id, after=self._number)
        async for event in local_pb2_grpc.DaemonStub(channel).Watch(request):
            self._number = event.number
            self._deliver(self._on_event, event)

    def _forget_and_watch(self) -> None:
        self._number = 0
        if self._watch is not None:
            self._watch.cancel()

    def _stub(self, method: str) -> Any:
        from octopus_desktop.wire.pb import local_pb2_grpc

        if self._channel is None:
            raise self._away()
        service, name = method.split(".")
        return getattr(getattr(local_pb2_grpc, f"{service}Stub")(self._channel), name)

    def _explain(self, error: Exception, method: str) -> UserError:
        if isinstance(error, UserError):
            return error
        import grpc

        from octopus_desktop.system.endpoint import to_user_error

        if isinstance(error, grpc.aio.AioRpcError):
            told = to_user_error(error, self._away)
            if told is not None:
                return told
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return UserError(
                    "OCT-DAEMON-TOKEN",
                    "The daemon does not know this window.",
                    "Its token was renewed, or belongs to another daemon.",
                    "Wait a moment; if this stays, restart the daemon.",
                )
            why = f"{error.code().name}: {error.details()}"
        else:
            why = f"{type(error).__name__}: {error}"
        return UserError(
            "OCT-DAEMON-FAULT",
            f"The daemon failed at {method}.",
            why,
            "Look into the page Logs, and report this with the daemon's log.",
        )

    def _away(self) -> UserError:
        return UserError(
            "OCT-DAEMON-AWAY",
            "The daemon does not answer.",
            f"Nothing listens on {self._socket}.",
            "Start it with the button, or with: octopus daemon start",
        )

    def _misfit(self, version: str) -> str:
        return f"The daemon is of version {version or '?'}, this window of {__version__}."

    def _soon(self, act: Callable[[], object]) -> None:
        if not self._loop.is_closed():
            with suppress(RuntimeError):  # closed in between
                self._loop.call_soon_threadsafe(act)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> Callable[[], None]:
        if self._loop.is_closed():
            work.close()
            return lambda: None
        future: Future[None] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return lambda: self._soon(lambda: future.cancel())
