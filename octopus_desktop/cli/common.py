"""What every noun's file uses: the clients of daemon and server, printers, and one way to show errors.

``rich`` and ``grpc`` are imported only inside functions: a command pays for what it uses.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from octopus_desktop.system.paths import FederationHome, SiloHome, federation_home, silo_home
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from octopus_desktop.identity.keys import SigningKey

Row = dict[str, Any]
WIDE = 200  # columns of a table that goes into a file or a pipe


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--json`` at the end of a command as well as before its noun."""

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            ctx.ensure_object(dict)["json"] = True

    return click.option("--json", is_flag=True, expose_value=False, callback=remember, help="Print JSON for scripts.")(
        command
    )


def wants_json() -> bool:
    return bool(_words().get("json"))


def home_of_silo() -> SiloHome:
    return silo_home(_words().get("home"))


def _words() -> Row:
    words: Row = click.get_current_context().ensure_object(dict)
    return words


def daemon_away(home: SiloHome) -> UserError:
    return UserError(
        "OCT-DAEMON-AWAY",
        "No daemon answers for this silo.",
        f"Nothing listens on {home.socket}.",
        "Start it with 'octopus daemon start' (give --home when the silo lies elsewhere).",
    )


def server_away(home: FederationHome) -> UserError:
    return UserError(
        "OCT-SERVER-AWAY",
        "No federation server answers.",
        f"Nothing listens on {home.socket}.",
        "Start it with 'octopus server start' (give --home when the federation lies elsewhere).",
    )


class Api:
    """A blocking client of one private endpoint. ``api.call("Runs.Pause", request)``; failures come as UserError."""

    def __init__(self, socket: Any, away: Callable[[], UserError], modules: Sequence[Any]) -> None:
        from octopus_desktop.system.endpoint import read_token, sync_channel

        self._away, self._modules = away, modules
        self._channel = sync_channel(socket, read_token(socket, away))

    def call(self, method: str, request: Message, timeout: float | None = 60.0) -> Any:
        return self._guard(lambda: self._method(method)(request, timeout=timeout))

    def stream(self, method: str, request: Any) -> Iterable[Any]:
        import grpc

        calls = self._method(method)(request)
        try:
            yield from calls
        except grpc.RpcError as error:
            raise self._translate(error) from None
        finally:
            calls.cancel()

    def send(self, method: str, requests: Iterable[Message]) -> Any:
        return self._guard(lambda: self._method(method)(iter(requests)))

    def _guard(self, work: Callable[[], Any]) -> Any:
        import grpc

        try:
            return work()
        except grpc.RpcError as error:
            raise self._translate(error) from None

    def _translate(self, error: Any) -> Exception:
        from octopus_desktop.system.endpoint import to_user_error

        known = to_user_error(error, self._away)
        return known or RuntimeError(f"{error.code()}: {error.details()}")

    def _method(self, method: str) -> Any:
        service, name = method.split(".")
        for module in self._modules:
            stub = getattr(module, f"{service}Stub", None)
            if stub is not None:
                return getattr(stub(self._channel), name)
        raise LookupError(method)


def daemon_api(home: SiloHome | None = None) -> Api:
    from octopus_desktop.wire.pb import local_pb2_grpc

    home = home or home_of_silo()
    return Api(home.socket, lambda: daemon_away(home), [local_pb2_grpc])


def server_api(home: FederationHome | str | None = None) -> Api:
    from octopus_desktop.wire.pb import operator_pb2_grpc

    place = home if isinstance(home, FederationHome) else federation_home(home)
    return Api(place.socket, lambda: server_away(place), [operator_pb2_grpc])


def request_id() -> str:
    return new_id("q")


def snapshot(api: Api) -> Any:
    """The daemon's snapshot, taken from the first event of Watch."""
    from octopus_desktop.wire.pb.local_pb2 import WatchRequest

    for event in api.stream("Daemon.Watch", WatchRequest()):
        if event.HasField("snapshot"):
            return event.snapshot
    raise daemon_away(home_of_silo())


def find(things: Sequence[Any], wanted: str, what: str, *names: str) -> Any:
    """The one thing whose id starts with, or one of whose ``names`` fields equals, the wanted text."""
    exact = [t for t in things if t.id == wanted or any(getattr(t, n) == wanted for n in names)]
    hits = exact or [t for t in things if t.id.startswith(wanted)]
    if len(hits) == 1:
        return hits[0]
    known = ", ".join(getattr(t, names[0]) if names else t.id for t in things) or "none"
    raise UserError(
        "OCT-CLI-USAGE",
        f"{'No' if not hits else 'More than one'} {what} fits {wanted!r}.",
        f"Known here: {known}.",
        "Give the whole id or name.",
    )


def to_dict(message: Message) -> Row:
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        use_integers_for_enums=False,
    )


def emit(value: Any, show: Callable[[], None]) -> None:
    """JSON when it is asked for, else ``show()``. ``value``: a message, a list of messages, or plain data."""
    if not wants_json():
        return show()
    if isinstance(value, list | tuple):
        value = [to_dict(v) if hasattr(v, "DESCRIPTOR") else v for v in value]
    elif hasattr(value, "DESCRIPTOR"):
        value = to_dict(value)
    click.echo(json.dumps(value, indent=2, default=str))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
    from rich.console import Console
    from rich.table import Table

    view = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        view.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        view.add_row(*("" if cell is None else str(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else WIDE).print(view)


def facts(title: str, pairs: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one a line, aligned."""
    pairs = list(pairs)
    if title:
        click.secho(title, bold=True)
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        click.echo(f"  {name:<{width}}  {value}")


def say(text: str) -> None:
    """A line for people; silent under --json."""
    if not wants_json():
        click.echo(text)


def print_error(error: UserError, *, as_json: bool) -> None:
    if as_json:
        fields = {"code": error.code, "what": error.what, "why": error.why, "next_step": error.next_step}
        click.echo(json.dumps({"error": fields}), err=True)
        return
    click.secho(f"{error.what} ", fg="red", bold=True, err=True, nl=False)
    click.secho(f"[{error.code}]", dim=True, err=True)
    if error.why:
        click.echo(f"  Why:  {error.why}", err=True)
    if error.next_step:
        click.echo(f"  Next: {error.next_step}", err=True)


def short(identity: str) -> str:
    """An id's beginning: enough for people, and for every command that takes one."""
    return identity[:10]


def when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else "–"


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""


def sealing(name: str, settings_json: str, own_json: str | None = None) -> str:
    """How a carrier's bytes are kept from those whose hands they pass through. ``own_json``: a silo's own side; None
    at the server, which has silos of both kinds."""
    if name in ("grpc", "loopback"):
        return "mutual TLS" if name == "grpc" else ""
    if json.loads(settings_json or "{}").get("sealed", True):
        return "sealed"
    if own_json is None:
        return "unsealed where a silo consents"
    return "UNSEALED blobs" if json.loads(own_json or "{}").get("accept_unsealed") else "sealed (no consent)"


def read_file(path: Path) -> bytes:
    """Raises OCT-CLI-USAGE."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            "OCT-CLI-USAGE", f"{path} cannot be read.", error.strerror or str(error), "Give another path."
        ) from error


def write_file(path: Path, content: bytes) -> None:
    """The whole file or none (0600). Raises OCT-CLI-USAGE."""
    half = path.with_name(path.name + ".part")
    try:
        with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        os.replace(half, path)
    except OSError as error:
        half.unlink(missing_ok=True)
        raise UserError(
            "OCT-CLI-USAGE", f"{path} cannot be written.", error.strerror or str(error), "Give another path."
        ) from error


def seconds_of(text: str) -> float:
    """``90``, ``90s``, ``15m``, ``12h``, ``7d`` in seconds."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    try:
        return float(text[:-1]) * units[text[-1]] if text and text[-1] in units else float(text)
    except ValueError:
        raise UserError(
            "OCT-CLI-USAGE",
            f"{text!r} is no duration.",
            "A number and a unit are wanted.",
            "Write 90s, 15m, 12h or 7d.",
        ) from None


def approver(home: SiloHome, name: str) -> SigningKey:
    """The approver's own key; asks for the passphrase on the terminal where one seals it."""
    from octopus_desktop.identity.secrets import approver_key, open_store

    return approver_key(open_store(home.secrets, passphrase=lambda: ask_passphrase(home.secrets)), name)


def ask_passphrase(secrets: Path) -> str:
    """The passphrase of a store of secrets, typed on the terminal; twice for a new one. Empty where nobody can be
    asked, which ``open_store`` refuses with the way out."""
    if not sys.stdin.isatty():
        return ""
    new = not (secrets / "store.json").exists()
    prompt = "A passphrase for this silo's keys" if new else "Passphrase"
    return str(click.prompt(prompt, hide_input=True, confirmation_prompt=new, err=True))
