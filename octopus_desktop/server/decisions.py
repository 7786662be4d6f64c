"""Does a silo's decision hold: is its approver's statement about exactly what was offered? Pure."""

from __future__ import annotations

from octopus_desktop.identity.keys import verify
from octopus_desktop.jobs.approval import Statement
from octopus_desktop.storage.federation_db import RunRow
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import Decision

VERDICTS = {
    Decision.APPROVED: "approved",
    Decision.REJECTED: "rejected",
    Decision.CHANGES_REQUESTED: "changes_requested",
    Decision.REVOKED: "revoked",
}


def check_decision(run: RunRow, silo: str, decision: Decision) -> str:
    """The verdict. An approval needs a signed statement on this run's package and configuration; where another verdict
    bears one, it must fit as well.

    Raises: UserError OCT-APPROVAL-MISSING or OCT-SIGN-BAD.
    """
    verdict = VERDICTS.get(decision.verdict)
    if verdict is None:
        raise _missing(silo, "it names no verdict")
    if not decision.statement and verdict != "approved":
        return verdict
    if not verify(decision.approver_key, decision.statement, decision.signature):
        raise UserError(
            "OCT-SIGN-BAD",
            f"The decision of {silo} was refused.",
            "The approver's signature does not fit the statement.",
            "Decide again; if this repeats, the approver's key store is damaged.",
        )
    try:
        statement = Statement.from_bytes(decision.statement)
    except ValueError as error:
        raise _missing(silo, str(error)) from error
    for name, offered, said in (
        ("run", run.id, statement.run_id),
        ("package", run.job_digest, statement.package_digest),
        ("configuration", run.config_digest, statement.config_digest),
        ("verdict", verdict, statement.verdict),
    ):
        if offered != said:
            raise _missing(silo, f"its statement is about the {name} {said[:40]!r}, and {offered[:40]!r} was offered")
    return verdict


def _missing(silo: str, why: str) -> UserError:
    return UserError(
        "OCT-APPROVAL-MISSING",
        f"The decision of {silo} does not cover what was offered.",
        f"Of the decision, {why}.",
        "Open the offer again and decide anew.",
    )
