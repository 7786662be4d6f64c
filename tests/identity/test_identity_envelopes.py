"""A signed envelope holds against every change."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from octopus_desktop.identity import envelopes
from octopus_desktop.identity.keys import SigningKey
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import ANSWER, TASK, BlobRef, Envelope

KEY = SigningKey.from_seed(b"k" * 32)


def signed() -> Envelope:
    envelope = Envelope(
        id="e1", run_id="r1", round=3, kind=ANSWER, sender="cleveland", recipient="server", body=b"body",
        blobs=[BlobRef(digest="ab" * 32, size=7, encoding="none")], dedupe="3/cleveland/train",
    )  # fmt: skip
    envelopes.sign(envelope, KEY)
    return envelope


def test_what_was_signed_passes_also_after_the_wire() -> None:
    envelopes.check(Envelope.FromString(signed().SerializeToString()), KEY.public)


def test_equal_envelopes_are_signed_with_different_nonces() -> None:
    assert signed().nonce != signed().nonce


CHANGES: dict[str, Callable[[Envelope], object]] = {
    "id": lambda e: setattr(e, "id", "e2"),
    "run": lambda e: setattr(e, "run_id", "r2"),
    "round": lambda e: setattr(e, "round", 4),
    "kind": lambda e: setattr(e, "kind", TASK),
    "sender": lambda e: setattr(e, "sender", "hungary"),
    "recipient": lambda e: setattr(e, "recipient", "hungary"),
    "body": lambda e: setattr(e, "body", b"bodY"),
    "dedupe": lambda e: setattr(e, "dedupe", "4/cleveland/train"),
    "nonce": lambda e: setattr(e, "nonce", b"0" * 16),
    "no nonce": lambda e: setattr(e, "nonce", b""),
    "no signature": lambda e: setattr(e, "signature", b""),
    "digest": lambda e: setattr(e.blobs[0], "digest", "cd" * 32),
    "size": lambda e: setattr(e.blobs[0], "size", 8),
    "encoding": lambda e: setattr(e.blobs[0], "encoding", "fp16"),
    "fewer blobs": lambda e: e.ClearField("blobs"),
    "more blobs": lambda e: e.blobs.add(digest="ef" * 32),
    "moved border": lambda e: (setattr(e, "sender", "clevelan"), setattr(e, "recipient", "dserver")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_noticed(change: str) -> None:
    envelope = signed()
    CHANGES[change](envelope)
    with pytest.raises(UserError) as refused:
        envelopes.check(envelope, KEY.public)
    assert refused.value.code == "OCT-LINK-ENVELOPE"


def test_another_members_signature_does_not_pass() -> None:
    with pytest.raises(UserError, match="cleveland"):
        envelopes.check(signed(), SigningKey.generate().public)
