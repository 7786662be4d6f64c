"""``octopus jobs …``: a researcher's work on a job package, from the first file to the federation.

A job's code is parsed here and not run: running it is for ``octopus simulate`` and the silos. Only a strategy that the
package brings is tried out, in the process that it would have at the server.
"""

from __future__ import annotations

import getpass
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from octopus_desktop.cli.common import emit, facts, json_option, server_api, size, when
from octopus_desktop.wire.errors import UserError

if TYPE_CHECKING:
    from octopus_desktop.identity.keys import SigningKey
    from octopus_desktop.jobs.manifest import JobManifest, RunConfig
    from octopus_desktop.wire.pb.federation_pb2 import Chunk, JobInfo

CHUNK_BYTES = 1 << 20
CALL_S = 120.0

_FILE = click.Path(path_type=Path)
_key_option = click.option(
    "--key", "key_file", type=_FILE, help="The author's key in a PEM file, in place of the author's secret store."
)


@click.group("jobs")
def cli() -> None:
    """Write, check, build, sign and submit job packages."""


@cli.command("new")
@click.argument("folder", type=_FILE)
@click.option(
    "--from",
    "script",
    type=_FILE,
    metavar="SCRIPT|DIR",
    help="What you have, to make a job around: a PyTorch script, a Flower app's folder, a script with a FedML trainer.",
)
@click.option("--own-strategy", "own", is_flag=True, help="With a strategy of the job's own, in code/strategy.py.")
@json_option
def new(folder: Path, script: Path | None, own: bool) -> None:
    """Make a small working job in FOLDER: job.toml, code/, data to try it with.

    With --from the job is made around your own code, which is read and not run: what was found in it is told, and
    what is left to do by hand. A Flower app and a FedML trainer go into the job as they stand; they run in an
    environment that has flwr or fedml (octopus simulate --runtime, octopus runtime add).
    """
    from octopus_desktop.cli.job_from_app import from_app, is_app
    from octopus_desktop.cli.job_from_script import from_script
    from octopus_desktop.cli.job_template import files, with_strategy

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError("OCT-STATE-EXISTS", f"{folder} is not empty.", "", "Choose a new folder.")
    name = re.sub(r"[^a-z0-9-]+", "-", folder.absolute().name.lower()).strip("-")[:64] or "job"
    read = None
    if script:
        read = from_app(script, name, str(folder)) if is_app(script) else from_script(script, name, str(folder))
    made = read.files if read else files(name, str(folder))
    made = with_strategy(made) if own else made
    for path, text in made.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    trainer = read.trainer if read else "code/trainer.py"

    def show() -> None:
        for title, rows in (("Found:", read.found), ("\nTo do by hand:", read.todo)) if read else ():
            click.echo(title)
            for where, words in rows:
                click.echo(f"  {where}: {words}")
        write = ("look at" if read else "write", str(folder / trainer))
        facts(f"The job {name!r} is in {folder}.", [write, ("then", f"octopus jobs check {folder}")])

    told = {
        "found": [{"place": where, "text": words} for where, words in read.found],
        "todo": [{"place": where, "text": words} for where, words in read.todo],
    } if read else {}  # fmt: skip
    emit({"folder": str(folder), "name": name, "files": list(made), **told}, show)


@cli.command("check")
@click.argument("job", type=_FILE, metavar="DIR|PACKAGE")
@json_option
@click.pass_context
def check(ctx: click.Context, job: Path) -> None:
    """Find mistakes before a silo does: job.toml, the trainer, the signature, and what a reviewer will ask about.

    A strategy of the job's own is tried out on small arrays, in the sandbox that it would have at the server.

    Ends with 1 when there is a mistake; findings alone are advice.
    """
    from octopus_desktop.jobs import findings, package

    signed: str | None = None
    if job.is_dir():
        files = package.read_folder(job)
    else:
        verified = package.verify(job)
        files, signed = package.read_files(job), verified.author
    manifest, mistakes = _examine(files[package.JOB_TOML])
    if manifest is not None:
        for look in (lambda m: findings.check_trainer(files, m.trainer), lambda m: _try_strategy(files, m.config)):
            try:
                look(manifest)
            except UserError as error:
                mistakes.append(_row(error))
    found = findings.find(files, manifest.requirements, manifest.config.strategy) if manifest else findings.find(files)

    def show() -> None:
        for mistake in mistakes:
            click.secho(f"{mistake['place']}: {mistake['text']}" if mistake["place"] else mistake["text"], fg="red")
            if mistake["advice"]:
                click.echo(f"  {mistake['advice']}")
        for one in found:
            place = f"{one.path}:{one.line}" if one.line else one.path
            click.echo(f"{one.severity:<7} {place} {one.text}")
            click.echo(f"        {one.advice}")
        if not mistakes and manifest is not None:
            by = "" if signed is None else f", signed by {signed}" if signed else ", not signed"
            click.secho(f"{manifest.name} {manifest.version} is in order{by}.", fg="green")

    rows = [{name: getattr(f, name) for name in ("severity", "rule", "path", "line", "text", "advice")} for f in found]
    emit({"ok": not mistakes, "mistakes": mistakes, "findings": rows, "author": signed}, show)
    ctx.exit(1 if mistakes else 0)


@cli.command("build")
@click.argument("folder", type=_FILE)
@click.option("-o", "--out", type=_FILE, help="The package to write; NAME-VERSION.octojob in this folder if not given.")
@json_option
def build(folder: Path, out: Path | None) -> None:
    """Pack a job. The same files give the same package, byte for byte."""
    from octopus_desktop.jobs import findings, package

    files = package.read_folder(folder)
    manifest, mistakes = _examine(files[package.JOB_TOML])
    if manifest is None or mistakes:
        first = mistakes[0]
        what = f"{first['place']}: {first['text']}" if first["place"] else first["text"]
        raise UserError(first["code"], what, "", first["advice"])
    findings.check_trainer(files, manifest.trainer)
    if manifest.config.own_strategy:
        findings.check_strategy(files, manifest.config.strategy)
    out = out or Path(f"{manifest.name}-{manifest.version}{package.SUFFIX}")
    digest = package.build(folder, out)
    _show_package("Built", out, digest, [("next", f"octopus jobs sign {out}")])


@cli.command("key")
@click.option("--file", "key_file", type=_FILE, help="Make the key in this PEM file, or show the one in it.")
@json_option
def key(key_file: Path | None) -> None:
    """Show the author's public key; makes the key at the first call.

    The coordinator trusts it with: octopus server authors add NAME KEY
    """
    from octopus_desktop.jobs import authors
    from octopus_desktop.wire.canonical import fingerprint

    if key_file is not None:
        own = authors.read_pem(key_file) if key_file.exists() else authors.make_pem(key_file)
        place = str(key_file)
    else:
        own, place = _own_key(None), _store().kind
    emit(
        {"key": own.public.hex(), "fingerprint": fingerprint(own.public), "kept_in": place},
        lambda: facts(
            "", [("key", own.public.hex()), ("fingerprint", fingerprint(own.public)), ("the secret half is in", place)]
        ),
    )


@cli.command("sign")
@click.argument("package", type=_FILE)
@click.option("--author", envvar="OCTOPUS_AUTHOR", help="Your name as silos read it; your login name if not given.")
@_key_option
@json_option
def sign(package: Path, author: str | None, key_file: Path | None) -> None:
    """Sign a package in place: you answer for its code."""
    from octopus_desktop.jobs import package as packages
    from octopus_desktop.wire.canonical import fingerprint

    own = _own_key(key_file)
    name = author or getpass.getuser()
    digest = packages.sign(package, own, name)
    _show_package("Signed", package, digest, [("author", name), ("key", fingerprint(own.public))])


@cli.command("enrol")
@click.argument("invitation", metavar="INVITATION|FILE|-")
@click.option("--name", required=True, help="The name wished in the federation: lower-case letters, digits, hyphens.")
@click.option("--contact", default="", help="How the coordinator reaches you.")
@_key_option
@json_option
def enrol(invitation: str, name: str, contact: str, key_file: Path | None) -> None:
    """Enrol as an author, so that you can submit jobs from your own machine."""
    from octopus_desktop.cli.federation import invitation_text
    from octopus_desktop.identity import certificates, invitations, member
    from octopus_desktop.jobs import authors
    from octopus_desktop.system.paths import author_home
    from octopus_desktop.wire.canonical import fingerprint

    ticket = invitations.decode(invitation_text(invitation))
    invitations.check_current(ticket)
    if ticket.role != "author":
        raise UserError(
            "OCT-ENROL-ROLE",
            "This invitation is not for an author.",
            f"It is for a {ticket.role}.",
            "Ask the coordinator for one made with 'octopus server invite --role author'.",
        )
    signing, store = _own_key(key_file), _store()
    key_pem, csr = authors.enrolment_key(store, ticket.id, name)
    dial = invitations.tls_identity(ticket)
    reply = _remote(
        ticket.server, certificates.to_pem(ticket.ca_der), dial, "Enrolment", "Enrol",
        member.enrol_request(csr, name, signing, "", contact),
    )  # fmt: skip
    if reply.ca_der != ticket.ca_der:
        raise UserError(
            "OCT-ENROL-CA",
            "The server named another CA than the invitation.",
            "Somebody may stand between you and the federation.",
            "Compare the CA fingerprint with the coordinator by telephone.",
        )
    peer = member.accept_certificate(reply.certificate_der, ticket.ca_der, key_pem)
    joined = authors.Membership(
        federation=reply.federation,
        server=ticket.server,
        name=peer.name,
        ca_der=reply.ca_der,
        certificate_der=reply.certificate_der,
        key_pem=key_pem,
    )
    authors.remember(author_home(), store, joined)
    emit(
        {"federation": reply.federation, "name": peer.name, "server": ticket.server, "expires_at": peer.not_after},
        lambda: facts(
            f"Enrolled in {reply.federation} as the author {peer.name}.",
            [
                ("server", ticket.server),
                ("CA fingerprint", fingerprint(ticket.ca_der)),
                ("valid until", when(peer.not_after)),
            ],
        ),
    )


@cli.command("submit")
@click.argument("package", type=_FILE)
@click.option("--server-home", metavar="DIR", help="The federation server's directory, when it runs on this machine.")
@click.option("--federation", help="A federation that enrolled you as an author; over the network.")
@json_option
def submit(package: Path, server_home: str | None, federation: str | None) -> None:
    """Give a signed package to a federation, which then may offer runs of it.

    On the coordinator's machine it goes through the operator's door; elsewhere to a federation that enrolled you.
    """
    from octopus_desktop.jobs import authors
    from octopus_desktop.jobs import package as packages
    from octopus_desktop.system.paths import author_home, federation_home

    verified = packages.require_signature(packages.verify(package))
    enrolled = authors.memberships(author_home())
    local = server_home is not None or (federation is None and (federation_home().socket.exists() or not enrolled))
    if local and federation is None:
        if server_home is None and not federation_home().root.exists():
            raise UserError(
                "OCT-ENROL-UNKNOWN",
                "There is no federation to submit to.",
                "No federation server lives on this machine, and none has enrolled you as an author.",
                "Ask its coordinator for 'octopus server invite --role author' and enrol with 'octopus jobs enrol'; on "
                "the coordinator's own machine, give --server-home.",
            )
        info = server_api(server_home).send("Operator.SubmitJob", _chunks(package))
    else:
        info = _submit_remotely(package, federation or "")
    _show_submitted(info, " --allow-own-strategy" if verified.manifest.config.own_strategy else "")


def _submit_remotely(package: Path, federation: str) -> JobInfo:
    from octopus_desktop.identity import certificates, member
    from octopus_desktop.jobs import authors
    from octopus_desktop.system.paths import author_home

    joined = authors.membership(author_home(), _store(), federation)
    member.accept_certificate(joined.certificate_der, joined.ca_der, joined.key_pem)
    identity = (joined.key_pem, certificates.to_pem(joined.certificate_der))
    info: JobInfo = _remote(
        joined.server, certificates.to_pem(joined.ca_der), identity, "Research", "Submit", _chunks(package)
    )
    return info


def _remote(server: str, ca_pem: bytes, identity: tuple[bytes, bytes], service: str, method: str, request: Any) -> Any:
    """One call to a federation's server over mutual TLS; failures come as UserError."""
    import grpc

    from octopus_desktop.communication.grpc_wire import OPTIONS, to_user_error
    from octopus_desktop.wire.pb import federation_pb2_grpc

    key, chain = identity
    credentials = grpc.ssl_channel_credentials(ca_pem, key, chain)
    with grpc.secure_channel(server, credentials, options=[*OPTIONS, ("grpc.enable_http_proxy", 0)]) as channel:
        call = getattr(getattr(federation_pb2_grpc, f"{service}Stub")(channel), method)
        try:
            return call(request, timeout=CALL_S)
        except grpc.RpcError as error:
            known = to_user_error(error, server)
    if known.code == "OCT-LINK-TLS":
        known = UserError(
            "OCT-ENROL-CA",
            f"The server at {server} is not the one of this federation.",
            known.why,
            "Compare address and CA fingerprint with the coordinator by telephone.",
        )
    raise known


def _chunks(package: Path) -> Iterator[Chunk]:
    from octopus_desktop.wire.canonical import digest
    from octopus_desktop.wire.pb.envelope_pb2 import BlobRef
    from octopus_desktop.wire.pb.federation_pb2 import Chunk

    data = package.read_bytes()
    for start in range(0, len(data), CHUNK_BYTES):
        blob = BlobRef(digest=digest(data), size=len(data)) if start == 0 else None
        yield Chunk(blob=blob, data=data[start : start + CHUNK_BYTES])


def _store() -> Any:
    from octopus_desktop.jobs import authors
    from octopus_desktop.system.paths import author_home

    def ask() -> str:
        return str(click.prompt("Passphrase", hide_input=True, err=True)) if sys.stdin.isatty() else ""

    return authors.store(author_home(), ask)


def _own_key(key_file: Path | None) -> SigningKey:
    from octopus_desktop.jobs import authors

    return authors.read_pem(key_file) if key_file is not None else authors.own_key(_store())


def _examine(raw: bytes) -> tuple[JobManifest | None, list[dict[str, str]]]:
    """The manifest, and every mistake of job.toml, its strategy's parameters included."""
    from octopus_desktop.aggregation.runnable import require_runnable, require_settings
    from octopus_desktop.aggregation.strategies import STRATEGIES
    from octopus_desktop.jobs.toml import examine

    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return None, [_mistake("job.toml", "it is not UTF-8 text", "Save the file as UTF-8")]
    manifest, mistakes = examine(text, strategies=STRATEGIES)
    rows = [
        _mistake(f"job.toml, line {m.line}, column {m.column}", f"{m.key}: {m.text}" if m.key else m.text, m.advice)
        for m in mistakes
    ]
    if manifest is not None:
        try:
            require_settings(manifest.config) if manifest.config.own_strategy else require_runnable(manifest.config)
        except UserError as error:
            rows.append(_row(error))
    return manifest, rows


def _try_strategy(files: Mapping[str, bytes], config: RunConfig) -> None:
    """Raises UserError: what is wrong with a strategy that the job brings."""
    import tempfile

    from octopus_desktop.aggregation.own.trial import try_out
    from octopus_desktop.jobs import findings

    if not config.own_strategy:
        return
    findings.check_strategy(files, config.strategy)
    with tempfile.TemporaryDirectory(prefix="octopus-check-") as folder:
        for name, content in files.items():
            place = Path(folder, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        try_out(config, Path(folder), lambda level, source, text: click.echo(f"{source}: {text}", err=True))


def _mistake(place: str, text: str, advice: str, code: str = "OCT-JOB-TOML") -> dict[str, str]:
    return {"code": code, "place": place, "text": text, "advice": advice}


def _row(error: UserError) -> dict[str, str]:
    return _mistake("", f"{error.what}{f' ({error.why})' if error.why else ''}", error.next_step, error.code)


def _show_package(done: str, path: Path, digest: str, more: list[tuple[str, str]]) -> None:
    count = path.stat().st_size
    emit(
        {"package": str(path), "digest": digest, "size": count, **{k: v for k, v in more if k != "next"}},
        lambda: facts(f"{done} {path}", [("digest", digest), ("size", size(count)), *more]),
    )


def _show_submitted(info: JobInfo, consent: str) -> None:
    emit(
        info,
        lambda: facts(
            f"Submitted {info.name} {info.version}.",
            [
                ("digest", info.digest),
                ("author", f"{info.author} ({info.author_fingerprint})"),
                ("then, the coordinator", f"octopus server runs start {info.name}{consent}"),
            ],
        ),
    )
