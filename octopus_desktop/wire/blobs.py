"""The blobs that a message's body names."""

from __future__ import annotations

from octopus_desktop.wire.pb.envelope_pb2 import Answer, BlobRef


def answer_blobs(answer: Answer) -> list[BlobRef]:
    """The update, and what the strategy has returned beside it in the order of the names."""
    update = [answer.update] if answer.HasField("update") and answer.update.digest else []
    return update + [answer.returned[name] for name in sorted(answer.returned)]
