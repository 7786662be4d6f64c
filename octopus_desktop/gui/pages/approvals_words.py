"""What the review says in words: conditions as sentences; what may be decided now, and why not. No widget here."""

from __future__ import annotations

import json
from dataclasses import dataclass

from PySide6.QtCore import QCoreApplication

from octopus_desktop.gui.widgets import formats
from octopus_desktop.wire.pb import local_pb2 as pb

WAITING = frozenset({"offered"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Where an offer stands for the person in front of it. ``approve``, ``refuse``, ``revoke``: whether that act is
    open now; ``tone`` and ``text``: the line beside the decision bar; ``detail``: a second one."""

    approve: bool = False
    refuse: bool = False
    revoke: bool = False
    tone: str = "neutral"
    text: str = ""
    detail: str = ""


def _tr(text: str) -> str:
    return QCoreApplication.translate("approvals", text)


def situation(offer: pb.SiloOffer, run: pb.Run | None, now: float) -> Situation:
    """What can be done with ``offer`` now, and what to say of it. ``run``: its run here, if there is one."""
    state, decided = offer.state, decided_line(offer)
    if state == "fetching":
        return Situation(
            tone="info", text=_tr("The package is on its way."), detail=_tr("It opens here once it is verified.")
        )
    if state == "invalid":
        return Situation(
            tone="danger",
            text=_tr("This package cannot be approved."),
            detail=join(offer.problem or _tr("It did not pass the checks."), offer.problem_code),
        )
    if state in WAITING and offer.offer.expires_at and offer.offer.expires_at < now:
        return Situation(
            tone="neutral", text=_tr("The offer has expired."), detail=_tr("The author may offer it again.")
        )
    if state in WAITING and not offer.signature_verified:
        return Situation(
            refuse=True,
            tone="danger",
            text=_tr("The author's signature is not verified."),
            detail=join(
                offer.problem or _tr("A package without a valid signature cannot be approved."), offer.problem_code
            ),
        )
    if state in WAITING:
        forbidden = [line for line in offer.policy if line.verdict == "forbidden"]
        if forbidden:
            return Situation(
                refuse=True,
                tone="danger",
                text=_tr("Your standing policy forbids this."),
                detail="; ".join(join(line.line, line.why) for line in forbidden),
            )
        if cannot := [line.why for line in offer.policy if line.verdict == "cannot"]:
            return Situation(
                refuse=True,
                tone="danger",
                text=_tr("This silo cannot take part as it is set up now."),
                detail=" ".join(cannot),
            )
        return Situation(
            approve=True,
            refuse=True,
            tone="warning",
            text=_tr("Waits for your decision."),
            detail=_tr("Nothing runs, and no data is read, before you approve it or try it out."),
        )
    if state == "approved":
        over = run is not None and run.state in ("completed", "stopped", "failed")
        detail = conditions_line(offer.conditions_json)
        if run is not None and run.state in ("stopped", "failed"):
            ended = _tr("Its run was stopped.") if run.state == "stopped" else _tr("Its run has failed.")
            return Situation(tone="neutral", text=decided, detail=join(ended, run.reason, run.code))
        return Situation(revoke=not over, tone="ok", text=decided, detail=detail)
    if state in ("rejected", "changes_requested", "revoked"):
        tone = "info" if state == "changes_requested" else "danger"
        return Situation(tone=tone, text=decided, detail=quoted(offer.reason))
    if state == "expired":
        return Situation(
            tone="neutral",
            text=_tr("The offer expired {0} without a decision.").format(formats.age(offer.offer.expires_at, now)),
            detail=_tr("The author may offer it again."),
        )
    if state == "withdrawn":
        return Situation(
            tone="neutral", text=_tr("The federation has withdrawn this offer."), detail=quoted(offer.reason)
        )
    return Situation(text=state)


def decided_line(offer: pb.SiloOffer) -> str:
    """Who decided what, and when."""
    verb = {
        "approved": _tr("Approved by {who}, {when}."),
        "rejected": _tr("Rejected by {who}, {when}."),
        "changes_requested": _tr("{who} asked for changes, {when}."),
        "revoked": _tr("Revoked by {who}, {when}."),
    }.get(offer.state, "")
    return verb.format(who=offer.decided_by or _tr("somebody"), when=formats.instant(offer.decided_at))


def conditions_of(text: str) -> list[str]:
    """The conditions of an approval as short sentences; empty when there are none, or they cannot be read."""
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return []
    if not isinstance(value, dict):
        return []
    said = []
    for begin, end in value.get("hours_of_day") or ():
        said.append(_tr("only between {0}:00 and {1}:00").format(begin, end))
    if value.get("nodes"):
        said.append(_tr("only on {0} of the nodes").format(len(value["nodes"])))
    if value.get("runtime"):
        said.append(_tr("in a Python environment chosen for it"))
    if value.get("max_rounds"):
        said.append(_tr("at most {0} rounds").format(value["max_rounds"]))
    if value.get("max_hours"):
        said.append(_tr("at most {0} h").format(f"{value['max_hours']:g}"))
    if value.get("max_bytes_out"):
        said.append(_tr("at most {0} of updates leave").format(formats.size(value["max_bytes_out"])))
    if value.get("max_epsilon"):
        said.append(_tr("ε at most {0}").format(f"{value['max_epsilon']:g}"))
    if value.get("expires_at"):
        said.append(_tr("until {0}").format(formats.instant(value["expires_at"])[:16]))
    return said


def conditions_line(text: str) -> str:
    said = conditions_of(text)
    return _tr("Conditions: {0}.").format(", ".join(said)) if said else _tr("No conditions beside the data.")


def topic(name: str) -> str:
    """A summary line's topic as a heading."""
    return {
        "purpose": _tr("Purpose"),
        "data": _tr("Data"),
        "hardware": _tr("Hardware"),
        "duration": _tr("Duration"),
        "leaves": _tr("What leaves"),
        "privacy": _tr("Privacy"),
        "carrier": _tr("Carrier"),
        "silos": _tr("Other silos"),
        "strategy": _tr("Strategy"),
    }.get(name, name.capitalize())


def what_happened(what: str) -> str:
    """A history entry's word."""
    return {
        "offered": _tr("Offered"),
        "tried": _tr("Tried out"),
        "approved": _tr("Approved"),
        "rejected": _tr("Rejected"),
        "changes_requested": _tr("Changes asked"),
        "revoked": _tr("Revoked"),
        "expired": _tr("Expired"),
        "withdrawn": _tr("Withdrawn"),
        "note": _tr("Note"),
    }.get(what, what.replace("_", " ").capitalize())


def severity(word: str) -> str:
    """The margin's four severities from the words that reviewers use."""
    return {
        "danger": "high",
        "error": "high",
        "critical": "high",
        "serious": "high",
        "warning": "medium",
        "note": "info",
    }.get(word, word)


def shortened(text: str, most: int = 220) -> str:
    """A long text cut at a word, with an ellipsis."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " …"


def quoted(text: str) -> str:
    return f"“{text}”" if text else ""


def join(*parts: str) -> str:
    return " · ".join(part for part in parts if part)
