"""What is remembered of uploads over a crash."""

from __future__ import annotations

from pathlib import Path

import pytest

from octopus_desktop.communication.object_notes import Made, ObjectNotes, Sent, Taken

SENT = Sent(object="octopus/f00d/1", digest="ab" * 32, size=7, part_bytes=5 << 20, key="cd" * 32)


def test_notes_are_found_again_by_another_process_and_nobody_else_may_read_them(tmp_path: Path) -> None:
    made = Made(
        object="o/1", digest="ef" * 32, size=1, part_bytes=5, key="cd" * 32, upload="u", run_id="run-a", round=3
    )
    taken = Taken(object="octopus/f00d/2", digest="ef" * 32, size=1, part_bytes=5, peer="alpha", run_id="run-a")
    notes = ObjectNotes(tmp_path / "objects")
    for note in (SENT, made, taken):
        notes.save(note)
    again = ObjectNotes(tmp_path / "objects")
    assert again.sent(SENT.digest) == SENT
    assert list(again.all(Made)) == [made] and list(again.all(Taken)) == [taken] and list(again.all(Sent)) == [SENT]
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "objects").iterdir())
    assert (tmp_path / "objects").stat().st_mode & 0o077 == 0
    made.done = True
    again.save(made)
    assert list(again.all(Made)) == [made]
    again.drop(made)
    again.drop(made)
    assert list(again.all(Made)) == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", '{"object": 1}', '{"object": "x", "digest": "y", "size": "z", "part_bytes": 1, "key": ""}',
     '{"object": "x", "digest": "y", "size": 1, "part_bytes": 1, "key": "no hex"}',
     '{"object": "x", "digest": "y", "size": 1, "part_bytes": 1, "key": "", "more": 1}'],
)  # fmt: skip
def test_a_note_that_cannot_be_read_counts_as_none(tmp_path: Path, text: str) -> None:
    notes = ObjectNotes(tmp_path / "objects")
    (tmp_path / "objects" / SENT.file_name()).write_text(text)
    assert notes.sent(SENT.digest) is None
    assert list(notes.all(Sent)) == []
    notes.save(SENT)
    assert notes.sent(SENT.digest) == SENT
