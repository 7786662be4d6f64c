"""The codes with which further machines join: which are open, used or withdrawn. The code itself is never kept, only
what is known of it; a machine that shows one is judged by that. Knows no port and no certificate.
"""

from __future__ import annotations

import time

from octopus_desktop.daemon.core import Silo
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb import node_pb2 as npb

INVITATION = "node_invitation"
NAME_LIMIT = 63
_ASK = "Ask the silo's administrator for a new code."


class NodeCodes:
    """All invitations of machines, by their id."""

    def __init__(self, silo: Silo) -> None:
        self._silo = silo
        self._codes = {i.id: i for i in silo.db.all(INVITATION, npb.NodeInvitation)}

    def open(self) -> list[pb.NodeCode]:
        """Those that a machine can still join with, the oldest first."""
        return [
            pb.NodeCode(id=i.id, name=i.name, made_at=i.made_at, expires_at=i.expires_at)
            for i in sorted(self._codes.values(), key=lambda i: i.made_at)
            if _is_open(i)
        ]

    def get(self, invitation_id: str) -> npb.NodeInvitation | None:
        return self._codes.get(invitation_id)

    def keep(self, invitation: npb.NodeInvitation) -> None:
        """Inside ``change``."""
        self._silo.db.put(INVITATION, invitation.id, invitation)
        self._silo.afterwards(lambda: self._codes.update({invitation.id: invitation}))

    def withdraw(self, invitation_id: str) -> None:
        """No machine joins with it any more. Raises OCT-ENROL-UNKNOWN, OCT-ENROL-USED."""
        known = self._codes.get(invitation_id)
        if known is None:
            raise UserError(
                "OCT-ENROL-UNKNOWN",
                f"There is no code {invitation_id!r} here.",
                "It was never given out here, or was withdrawn.",
                "List the open codes and give one of their ids.",
            )
        if known.node_id:
            raise UserError(
                "OCT-ENROL-USED",
                f"The code for {known.name} was used.",
                "A machine has joined with it.",
                "To take the machine out of the silo, remove it.",
            )
        with self._silo.change():
            self._silo.db.drop(INVITATION, invitation_id)
            self._silo.record(self._silo.administrator, "node.code_withdrawn", invitation_id, {"name": known.name})
            self._silo.answer(pb.Ack())
            self._silo.afterwards(lambda: self._codes.__delitem__(invitation_id))

    def check_name(self, name: str) -> None:
        """Raises OCT-ENROL-NAME when a new node cannot be called so."""
        why = ""
        if not name or len(name) > NAME_LIMIT or not name.isprintable():
            why = f"A name has 1 to {NAME_LIMIT} printable characters."
        elif any(n.name == name for n in self._silo.all("node")):
            why = "A node bears it."
        elif any(i.name == name and _is_open(i) for i in self._codes.values()):
            why = "A code that was not used yet is for this name; it can be withdrawn."
        if why:
            raise UserError("OCT-ENROL-NAME", f"The name {name!r} cannot be given.", why, "Choose another name.")

    def check(self, invitation: npb.NodeInvitation | None, key_der: bytes, joined_key: bytes | None) -> None:
        """Whether a machine with this key may join. ``joined_key``: of the machine that joined with the code, while it
        is a node. Raises OCT-ENROL-UNKNOWN, -USED, -EXPIRED."""
        if invitation is None:
            raise UserError("OCT-ENROL-UNKNOWN", "The silo does not know this code.", "It is not in its state.", _ASK)
        if invitation.node_id:
            if joined_key != key_der:
                raise UserError(
                    "OCT-ENROL-USED", "This code was used before.", "A code lets one machine join, once.", _ASK
                )
        elif invitation.expires_at < time.time():
            until = time.strftime("It was good until %Y-%m-%d %H:%M UTC.", time.gmtime(invitation.expires_at))
            raise UserError("OCT-ENROL-EXPIRED", "This code has expired.", until, _ASK)


def _is_open(invitation: npb.NodeInvitation) -> bool:
    return not invitation.node_id and invitation.expires_at > time.time()
