"""``octopus approvals …``: read what is asked, and decide. The signature is made here, by the approver's own key."""

from __future__ import annotations

import functools
import time
from typing import Any

import click

from octopus_desktop.cli.common import (
    Api,
    approver,
    daemon_api,
    emit,
    facts,
    find,
    home_of_silo,
    json_option,
    request_id,
    say,
    seconds_of,
    short,
    snapshot,
    table,
    when,
)
from octopus_desktop.wire.errors import UserError


@click.group("approvals")
def cli() -> None:
    """Read offered jobs; approve, reject, revoke."""


def _offer(api: Api, wanted: str) -> tuple[Any, Any]:
    snap = snapshot(api)
    by_job = [o for o in snap.offers if o.offer.job_name == wanted and o.state == "offered"]
    return snap, by_job[0] if len(by_job) == 1 else find(snap.offers, wanted, "offer")


@cli.command("list")
@click.option("--all", "everything", is_flag=True, help="Decided and expired ones as well.")
@json_option
def list_(everything: bool) -> None:
    """What waits for a decision."""
    offers = [o for o in snapshot(daemon_api()).offers if everything or o.state in ("offered", "fetching", "invalid")]
    emit(
        offers,
        lambda: table(
            "",
            ["id", "job", "author", "federation", "state", "received", "expires"],
            [
                (short(o.id), f"{o.offer.job_name} {o.offer.job_version}", o.offer.author, o.offer.federation,
                 o.state + (f" ({o.problem_code})" if o.problem_code else ""), when(o.received_at),
                 when(o.offer.expires_at))
                for o in offers
            ],
        ),
    )  # fmt: skip


@cli.command("show")
@click.argument("offer")
@json_option
def show(offer: str) -> None:
    """The review: who asks for what, in plain sentences, with findings and changes."""
    from octopus_desktop.wire.pb.local_pb2 import ById

    api = daemon_api()
    _, one = _offer(api, offer)
    review = api.call("Approvals.Review", ById(id=one.id))

    def text() -> None:
        said = review.offer.offer
        facts(
            f"{said.job_name} {said.job_version}",
            [
                ("asked by", f"{said.author} ({said.author_fingerprint})"),
                ("signature", "verified" if review.offer.signature_verified else "NOT verified"),
                ("purpose", said.purpose),
                ("package", said.package.digest),
                ("state", review.offer.state),
                *((line.topic, _said(line)) for line in review.summary),
            ],
        )
        for finding in review.findings:
            click.echo(f"  {finding.severity:<8} {finding.path}:{finding.line} {finding.text} ({finding.rule})")
        for change in review.changes:
            click.echo(f"\n{change.change}: {change.path}\n{change.unified_diff}")
        click.echo("  files: " + ", ".join(entry.path for entry in review.files))

    emit(review, text)


def _said(line: Any) -> str:
    """A line of the summary with its verdict, and with the reason where it stands in the way."""
    why = f": {line.why}" if line.why and line.verdict in ("forbidden", "cannot") else ""
    return f"{line.text} [{line.verdict}{why}]"


@cli.command("file")
@click.argument("offer")
@click.argument("path")
def file(offer: str, path: str) -> None:
    """Print one file of the offered package."""
    from octopus_desktop.wire.pb.local_pb2 import ReadFileRequest

    api = daemon_api()
    _, one = _offer(api, offer)
    reply = api.call("Approvals.ReadFile", ReadFileRequest(id=one.id, path=path))
    click.echo(reply.content, nl=False)


@cli.command("try")
@click.argument("offer")
@click.option("--data", multiple=True, metavar="NEED=DATASET", help="Which dataset serves which need of the job.")
@click.option("--runtime", default="", help="Train in this Python environment (octopus runtime list).")
@click.option("--limit", default="15m", show_default=True, help="It is ended after this time: 90s, 15m, 2h.")
@json_option
def try_(offer: str, data: tuple[str, ...], runtime: str, limit: str) -> None:
    """Try a job out before you decide: its first round on your data, in the sandbox. Nothing is sent to anybody."""
    from octopus_desktop.cli.run_tables import show_trial
    from octopus_desktop.wire.pb.local_pb2 import ById, TryRequest

    api = daemon_api()
    snap, one = _offer(api, offer)
    review = api.call("Approvals.Review", ById(id=one.id))
    chosen = _choose_data(snap, review, data)
    request = TryRequest(
        id=one.id,
        datasets={need: dataset.id for need, dataset in chosen.items()},
        runtime=find(snap.runtimes, runtime, "runtime", "name").id if runtime else "",
        limit_s=seconds_of(limit),
    )
    for update in api.stream("Approvals.Try", request):
        if update.text:
            say(update.text if update.state != "log" else f"  {update.text}")
        if update.state == "done":
            result = update.result
            emit(result, functools.partial(show_trial, result))
            if result.error_code:
                raise SystemExit(1)


@cli.command("approve")
@click.argument("offer")
@click.option("--data", multiple=True, metavar="NEED=DATASET", help="Which dataset serves which need of the job.")
@click.option(
    "--node",
    "nodes",
    multiple=True,
    help="Only on this node. Given more than once, one group of workers spans them, unencrypted.",
)
@click.option("--runtime", default="", help="Train in this Python environment (octopus runtime list).")
@click.option("--slurm", default="", help="Train in an allocation of the site's Slurm (octopus node slurm list).")
@click.option("--hours", metavar="FROM-TO", multiple=True, help="Only within these hours of the day, e.g. 18-6.")
@click.option("--max-rounds", type=click.IntRange(0), default=0)
@click.option("--max-hours", type=click.FloatRange(0), default=0.0)
@click.option("--max-bytes-out", type=click.IntRange(0), default=0)
@click.option("--valid", metavar="DURATION", default="", help="The approval ends after this time, e.g. 30d.")
@json_option
def approve(
    offer: str, data: tuple[str, ...], nodes: tuple[str, ...], runtime: str, slurm: str, hours: tuple[str, ...],
    max_rounds: int, max_hours: float, max_bytes_out: int, valid: str,
) -> None:  # fmt: skip
    """Approve a job on named data, under conditions of your own."""
    from octopus_desktop.jobs.approval import Conditions
    from octopus_desktop.wire.pb.local_pb2 import ById

    api = daemon_api()
    snap, one = _offer(api, offer)
    review = api.call("Approvals.Review", ById(id=one.id))
    chosen = _choose_data(snap, review, data)
    conditions = Conditions(
        datasets={need: dataset.id for need, dataset in chosen.items()},
        nodes=tuple(find(snap.nodes, name, "node", "name").id for name in nodes),
        runtime=find(snap.runtimes, runtime, "runtime", "name").id if runtime else "",
        slurm=find(snap.slurm_profiles, slurm, "Slurm profile", "name").id if slurm else "",
        hours_of_day=tuple(_hours(text) for text in hours),
        max_rounds=max_rounds,
        max_hours=max_hours,
        max_bytes_out=max_bytes_out,
        expires_at=time.time() + seconds_of(valid) if valid else 0.0,
    )
    _decide(api, snap, one, "approved", "", conditions, {need: d.digest for need, d in chosen.items()})


@cli.command("reject")
@click.argument("offer")
@click.option("--reason", required=True, help="The author gets it.")
@json_option
def reject(offer: str, reason: str) -> None:
    """Refuse a job."""
    _refuse(offer, "rejected", reason)


@cli.command("request-changes")
@click.argument("offer")
@click.option("--reason", required=True, help="What should change; the author gets it.")
@json_option
def request_changes(offer: str, reason: str) -> None:
    """Refuse a job as it is, and say what would make it acceptable."""
    _refuse(offer, "changes_requested", reason)


@cli.command("revoke")
@click.argument("offer")
@click.option("--reason", required=True)
@json_option
def revoke(offer: str, reason: str) -> None:
    """Take an approval back. The run stops here."""
    _refuse(offer, "revoked", reason)


def _refuse(offer: str, verdict: str, reason: str) -> None:
    from octopus_desktop.jobs.approval import Conditions

    api = daemon_api()
    snap, one = _offer(api, offer)
    _decide(api, snap, one, verdict, reason, Conditions(), {})


def _choose_data(snap: Any, review: Any, given: tuple[str, ...]) -> dict[str, Any]:
    """need -> Dataset: as told, else the one that fits; refuses when none or several fit."""
    told = dict(text.partition("=")[::2] for text in given)
    needs = list(dict.fromkeys(match.need for match in review.data))
    chosen = {}
    for need in needs:
        if need in told:
            chosen[need] = find(snap.datasets, told[need], "dataset", "alias")
            continue
        fitting = [m for m in review.data if m.need == need and m.fits]
        named = [m for m in fitting if any(d.id == m.dataset_id and d.alias == need for d in snap.datasets)]
        candidates = named or fitting
        if len(candidates) != 1:
            problems = "; ".join(m.problem for m in review.data if m.need == need and m.problem)
            raise UserError(
                "OCT-DATA-COLUMN" if problems and not fitting else "OCT-DATA-ALIAS",
                f"The job's data {need!r} needs one registered dataset; {len(candidates)} fit.",
                problems or "Several datasets fit it." if fitting else problems or "No dataset is registered.",
                f"Register one with 'octopus dataset register {need} PATH', or name it with --data {need}=ALIAS.",
            )
        chosen[need] = find(snap.datasets, candidates[0].dataset_id, "dataset", "alias")
    return chosen


def _hours(text: str) -> tuple[int, int]:
    try:
        begin, end = (int(part) for part in text.split("-"))
        if not (0 <= begin <= 23 and 0 <= end <= 24):
            raise ValueError
    except ValueError:
        raise UserError(
            "OCT-CLI-USAGE", f"{text!r} are no hours of the day.", "Two hours from 0 to 24 are wanted.", "Write 18-6."
        ) from None
    return begin, end


def _decide(api: Api, snap: Any, one: Any, verdict: str, reason: str, conditions: Any, scope: dict[str, str]) -> None:
    from octopus_desktop.jobs.approval import Statement
    from octopus_desktop.wire.pb.envelope_pb2 import Decision
    from octopus_desktop.wire.pb.local_pb2 import DecideRequest

    who = snap.daemon.administrator
    key = approver(home_of_silo(), who)
    statement = Statement(
        run_id=one.id,
        verdict=verdict,
        package_digest=one.offer.package.digest,
        config_digest=one.offer.config_digest,
        data_scope=scope,
        conditions=conditions,
        reason=reason,
        decided_by=who,
        decided_at=time.time(),
    )
    raw = statement.to_bytes()
    decision = Decision(
        verdict=verdict.upper(),
        reason=reason,
        statement=raw,
        signature=key.sign(raw),
        approver_key=key.public,
        decided_by=who,
        decided_at=statement.decided_at,
    )
    after = api.call("Approvals.Decide", DecideRequest(id=one.id, decision=decision, request_id=request_id()))
    emit(after, lambda: say(f"{after.offer.job_name}: {after.state}."))
