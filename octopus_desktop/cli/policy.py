"""``octopus policy …``: standing rules, signed by the administrator."""

from __future__ import annotations

import json
from pathlib import Path

import click

from octopus_desktop.cli.common import (
    approver,
    daemon_api,
    emit,
    find,
    home_of_silo,
    json_option,
    request_id,
    say,
    short,
    snapshot,
    table,
    when,
)
from octopus_desktop.wire.errors import UserError


@click.group("policy")
def cli() -> None:
    """Standing rules: what is accepted without asking."""


@cli.command("list")
@json_option
def list_() -> None:
    """The rules in force."""
    policies = list(snapshot(daemon_api()).policies)
    emit(
        policies,
        lambda: table(
            "",
            ["name", "on", "made", "by", "rule", "id"],
            [
                (p.name, "yes" if p.enabled else "no", when(p.created_at), p.created_by, p.rule_json, short(p.id))
                for p in policies
            ],
        ),
    )


@cli.command("put")
@click.argument("name")
@click.argument("rule", metavar="RULE|FILE")
@click.option("--off", is_flag=True, help="Keep the rule, but out of force.")
@json_option
def put(name: str, rule: str, off: bool) -> None:
    """Add a rule, or replace the one of this name. RULE is JSON, or a file that holds it.

    \b
    Example: accept the heart jobs of one author on one dataset, at most 50 rounds:
      octopus policy put heart '{"effect":"approve","job":"heart*","max_rounds":50}'
    """
    from octopus_desktop.jobs.policy import Rule
    from octopus_desktop.wire.pb.local_pb2 import Policy, PutPolicyRequest

    path = Path(rule)
    text = path.read_text() if not rule.lstrip().startswith("{") and path.is_file() else rule
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(
            "OCT-CONFIG-INVALID", "The rule is not JSON.", str(error), "Write it as in 'octopus policy put --help'."
        ) from None
    canonical = Rule.from_dict(value).to_json()
    api = daemon_api()
    snap = snapshot(api)
    who = snap.daemon.administrator
    key = approver(home_of_silo(), who)
    old = next((p for p in snap.policies if p.name == name), None)
    policy = Policy(
        id=old.id if old else "",
        name=name,
        enabled=not off,
        rule_json=canonical,
        created_by=who,
        statement=canonical.encode(),
        signature=key.sign(canonical.encode()),
        approver_key=key.public,
    )
    after = api.call("Policies.Put", PutPolicyRequest(policy=policy, request_id=request_id()))
    emit(after, lambda: say(f"The rule {after.name!r} is {'in force' if after.enabled else 'kept, but off'}."))


@cli.command("remove")
@click.argument("policy")
@json_option
def remove(policy: str) -> None:
    """Remove a rule."""
    from octopus_desktop.wire.pb.local_pb2 import ById

    api = daemon_api()
    one = find(snapshot(api).policies, policy, "rule", "name")
    api.call("Policies.Remove", ById(id=one.id, request_id=request_id()))
    emit({"removed": one.name}, lambda: say(f"The rule {one.name!r} is gone."))
