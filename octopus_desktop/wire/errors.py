"""Errors that a person can act on, and their transport. Knows nothing of any room above."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octopus_desktop.wire.pb import federation_pb2

FAULT_METADATA = "x-octopus-error-bin"


class UserError(Exception):
    """Something a person can mend: what failed, why, and the next step, with a stable documented code.

    Everything else that is raised is a bug and looks like one. Codes are ``OCT-<ROOM>-<WORD>``; the list with the
    meaning of each is ``octopus_desktop.wire.codes.CODES``.
    """

    def __init__(self, code: str, what: str, why: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.code, self.what, self.why, self.next_step = code, what, why, next_step

    def __str__(self) -> str:
        parts = [f"{self.what} [{self.code}]"]
        if self.why:
            parts.append(f"Why: {self.why}")
        if self.next_step:
            parts.append(f"Next: {self.next_step}")
        return "\n".join(parts)

    def to_fault(self) -> federation_pb2.Fault:
        from octopus_desktop.wire.pb import federation_pb2  # a worker in another environment may have another protobuf

        return federation_pb2.Fault(code=self.code, what=self.what, why=self.why, next_step=self.next_step)

    @classmethod
    def from_fault(cls, fault: federation_pb2.Fault) -> UserError:
        return cls(fault.code, fault.what, fault.why, fault.next_step)


class IllegalMove(Exception):
    """A reducer was given an event that its state does not allow: a bug, told with its whole story."""

    def __init__(self, subject: str, state: str, event: object, story: list[str]) -> None:
        super().__init__(f"{subject} is {state!r} and cannot take {event!r}.\nStory:\n  " + "\n  ".join(story[-50:]))
        self.subject, self.state, self.event, self.story = subject, state, event, story
