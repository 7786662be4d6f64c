"""The agent of a further machine: ``python -m octopus_desktop.nodes.agent --home DIR``.

It dials the silo's daemon, tells what the machine has and how busy it is, and dials again when the link breaks. When
the silo has removed the node it says so and ends. Knows no database; opens no port.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from octopus_desktop import __version__
from octopus_desktop.communication.contract import LinkPhase, LinkState
from octopus_desktop.communication.grpc_wire import ClientCredentials, client_channel, decode_chunk, to_user_error
from octopus_desktop.communication.links import link_down, protocol_differs
from octopus_desktop.communication.memory import blob_threads
from octopus_desktop.communication.redial import Shown, keep_dialling
from octopus_desktop.communication.transfer import TRANSFERS, BlobLocks, BlobSink
from octopus_desktop.identity.secrets import open_store
from octopus_desktop.nodes import PROTOCOL, REPORT_S, SERVICE, SILENCE_S
from octopus_desktop.nodes.join import Place, credentials, renew
from octopus_desktop.nodes.looks import look
from octopus_desktop.nodes.report import fill
from octopus_desktop.nodes.shares import Shares, words_of
from octopus_desktop.system.inventory import machine
from octopus_desktop.system.lock import InstanceLock
from octopus_desktop.system.paths import NodeHome, node_home
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef
from octopus_desktop.wire.pb.federation_pb2 import GetRequest
from octopus_desktop.wire.pb.local_pb2 import Node
from octopus_desktop.wire.pb.node_pb2 import AgentFrame, AgentHello, NodeAsk, PortFrame, RunWords

DIAL_S = 20.0
RENEW_AGAIN_S = 3600.0
STATES = {
    "asking": "waits until the silo's administrator accepts it",
    "ready": "is in use",
    "drained": "is drained: it takes no work",
}

log = logging.getLogger("octopus.node")


class Agent:
    """One machine's link to its silo.

    Args:
        protocol, version: what it speaks and is.
    """

    name = "node"

    def __init__(
        self,
        home: NodeHome,
        place: Place,
        shown: ClientCredentials,
        *,
        protocol: int = PROTOCOL,
        version: str = __version__,
    ) -> None:
        self._home, self._place, self._credentials = home, place, shown
        self._hello = AgentHello(protocol=protocol, version=version, boot_id=new_id("b"))
        self._shown = Shown(self, place.address)  # type: ignore[arg-type]  # of an owner it asks for link_changed alone
        self._said: tuple[Any, ...] = ()
        self._outgoing: asyncio.Queue[AgentFrame] = asyncio.Queue()
        self._channel: grpc.aio.Channel | None = None
        self._executor = blob_threads(2 * TRANSFERS)
        self._locks = BlobLocks()
        self._shares = Shares(home, self._fetch, self._say)

    async def run(self) -> UserError | None:
        """Until cancelled; returns only when the silo has removed this node, with its reason."""
        try:
            await keep_dialling(self._connection, self._shown)
        finally:
            await self._shares.stop()
        return self._shown.state.fault

    def link_changed(self, state: LinkState) -> None:
        """Say what a person wants to know, once."""
        if state.phase is LinkPhase.DOWN and state.fault:
            said = (state.phase, state.fault.code, state.fault.why)
            if said != self._said:
                log.warning("%s", state.fault)
            self._said = said

    async def _connection(self) -> UserError:
        channel = self._channel = client_channel(self._place.address, self._credentials)
        try:
            self._place.check_current()
            return await self._carry(channel)
        except UserError as error:
            return error
        except grpc.RpcError as error:
            return to_user_error(error, self._place.address)
        except TimeoutError:
            return link_down(self._place.address, f"The daemon did not greet within {DIAL_S:.0f} s.")
        finally:
            await self._shares.stop()  # without the link no group can be whole: the silo begins it again
            await channel.close(None)

    async def _carry(self, channel: grpc.aio.Channel) -> UserError:
        call: Any = channel.stream_stream(
            f"/{SERVICE}/Link",
            request_serializer=AgentFrame.SerializeToString,
            response_deserializer=PortFrame.FromString,
        )()
        async with asyncio.timeout(DIAL_S):
            await _write(call, AgentFrame(hello=self._hello))
            first = await call.read()
        if first is grpc.aio.EOF:
            raise await _status(call)
        if first.hello.protocol != self._hello.protocol:
            raise protocol_differs(first.hello.protocol, self._hello.protocol, "silo")
        self._shown.show(phase=LinkPhase.UP)
        self._note(first)
        self._outgoing = asyncio.Queue()
        reading = asyncio.create_task(self._read(call))
        others = (self._tell(), self._write(call), self._renew())
        tasks = {reading, *(asyncio.create_task(work) for work in others)}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return (reading if reading in done else next(iter(done))).result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            call.cancel()

    async def _read(self, call: Any) -> UserError:
        looking: set[asyncio.Task[None]] = set()
        while True:
            async with asyncio.timeout(SILENCE_S):
                frame = await call.read()
            if frame is grpc.aio.EOF:
                raise await _status(call)
            if frame.WhichOneof("frame") == "fault":
                return UserError.from_fault(frame.fault)
            if frame.WhichOneof("frame") == "words":
                words = words_of(frame.words.json)
                if words is not None:
                    self._shares.told(frame.words.run_id, words)
            if frame.WhichOneof("frame") == "ask":
                looking.add(task := asyncio.create_task(self._look(frame.ask)))
                task.add_done_callback(looking.discard)
            self._note(frame)

    def _note(self, frame: PortFrame) -> None:
        if frame.WhichOneof("frame") == "hello":
            words = STATES.get(frame.hello.state, f"is {frame.hello.state}")
            self._said = ()
            log.info("Connected to %s: node %s %s.", self._place.address, self._place.name, words)

    async def _tell(self) -> UserError:
        while True:
            node = Node()
            fill(node, await asyncio.to_thread(machine, self._home.root))
            self._outgoing.put_nowait(AgentFrame(machine=node))
            await asyncio.sleep(REPORT_S)

    async def _look(self, ask: NodeAsk) -> None:
        self._outgoing.put_nowait(AgentFrame(answer=await look(ask)))

    async def _renew(self) -> UserError:
        """Ask for a fresh certificate when two thirds of this one's time are over; it is shown when the agent dials
        again."""
        while True:
            await asyncio.sleep(self._place.renew_in_s())
            try:
                self._place = await renew(self._home, self._place, self._channel, self._credentials.key)
            except (UserError, grpc.RpcError) as error:
                log.warning("The certificate was not renewed: %s", error)
                await asyncio.sleep(RENEW_AGAIN_S)
                continue
            self._credentials = replace(self._credentials, chain=self._place.certificate_pem.encode())
            log.info("The certificate was renewed; it is good until %s.", self._place.good_until())

    async def _write(self, call: Any) -> UserError:
        while True:
            await _write(call, await self._outgoing.get())

    def _say(self, run_id: str, words: dict[str, Any]) -> None:
        self._outgoing.put_nowait(AgentFrame(words=RunWords(run_id=run_id, json=json.dumps(words))))

    async def _fetch(self, run_id: str, ref: BlobRef) -> None:
        """Bring a blob here, from where an interrupted transfer left off. Raises UserError."""
        store, channel = self._shares.blobs, self._channel
        async with self._locks.held(ref.digest):
            if store.has(ref.digest):
                return
            assert channel is not None
            get = channel.unary_stream(
                f"/{SERVICE}/Get", request_serializer=GetRequest.SerializeToString, response_deserializer=None
            )
            async with BlobSink(self._executor, store, ref) as sink:
                call: Any = get(GetRequest(blob=ref, offset=sink.offset, run_id=run_id))
                try:
                    while True:
                        async with asyncio.timeout(SILENCE_S):
                            message = await call.read()
                        if message is grpc.aio.EOF:
                            break
                        await sink.write(decode_chunk(message).data)
                    if await call.code() is not grpc.StatusCode.OK:
                        raise await _status(call)
                except grpc.RpcError as error:
                    raise to_user_error(error, self._place.address) from error
                except TimeoutError as error:
                    raise link_down(self._place.address, "A blob's transfer stood still.") from error
                finally:
                    call.cancel()
                await sink.commit()


async def _write(call: Any, frame: AgentFrame) -> None:
    try:
        await call.write(frame)
    except asyncio.InvalidStateError:
        raise await _status(call) from None


async def _status(call: Any) -> Exception:
    """Why the call ended, as an exception to raise."""
    code = await call.code()
    if code is grpc.StatusCode.OK:
        return link_down("the silo", "The daemon closed the link.")
    return grpc.aio.AioRpcError(
        code, await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )


async def _run(home: NodeHome) -> int:
    place = Place.read(home)
    lock = InstanceLock(home.lock, "agent")
    agent = Agent(home, place, credentials(place, open_store(home.secrets)))
    work = asyncio.create_task(agent.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        fault = await work
        print(fault, file=sys.stderr)
        return 1
    del lock
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="octopus-node", description="The agent of a silo's further machine.")
    parser.add_argument("--home", type=Path, default=None, help="The node's directory (default: OCTOPUS_NODE_HOME).")
    options = parser.parse_args(arguments)
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        return asyncio.run(_run(node_home(options.home)))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
