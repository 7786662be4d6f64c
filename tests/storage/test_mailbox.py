"""A run's mailbox keeps its promises: acknowledged means on disk, duplicates are dropped, all or nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from octopus_desktop.storage.mailbox import Mailbox
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.pb.envelope_pb2 import ANSWER, Envelope


def make_envelope(dedupe: str = "", recipient: str = "server", body: bytes = b"") -> Envelope:
    return Envelope(
        id=new_id("e-"), run_id="r", kind=ANSWER, sender="alpha", recipient=recipient, dedupe=dedupe, body=body
    )


@pytest.fixture
def box(tmp_path: Path) -> Mailbox:
    return Mailbox(tmp_path / "run" / "mail.sqlite")


def test_what_arrived_is_there_until_it_is_done(box: Mailbox) -> None:
    first, second = make_envelope(body=b"1"), make_envelope(body=b"2")
    assert box.accept(first) and box.accept(second)
    rows = box.inbox()
    assert [envelope for _, envelope in rows] == [first, second]
    assert box.inbox(after=rows[0][0]) == rows[1:]
    box.done(rows[0][0])
    assert box.inbox() == rows[1:]
    assert not box.accept(first), "done, and still known"


def test_the_same_id_or_the_same_dedupe_key_arrives_once(box: Mailbox) -> None:
    first = make_envelope("1/alpha/train")
    assert box.accept(first)
    assert not box.accept(first)
    assert not box.accept(make_envelope("1/alpha/train"))
    assert box.accept(make_envelope("2/alpha/train"))
    assert box.accept(make_envelope()) and box.accept(make_envelope()), "no key, no clash"
    assert len(box.inbox()) == 4


def test_the_outbox_keeps_order_and_recipients_apart_until_delivery(box: Mailbox) -> None:
    sent = [make_envelope(recipient=name) for name in ("alpha", "beta", "alpha")]
    assert all(box.post(envelope) for envelope in sent)
    assert [envelope for _, envelope in box.pending("alpha")] == [sent[0], sent[2]]
    assert [envelope for _, envelope in box.pending()] == sent
    box.delivered(sent[0].id)
    box.delivered(sent[0].id)
    box.delivered("unknown")
    assert [envelope for _, envelope in box.pending("alpha")] == [sent[2]]
    seq = box.pending()[0][0]
    assert [envelope for _, envelope in box.pending(after=seq)] == [sent[2]]


def test_an_answer_is_posted_once_and_can_be_found_by_its_key(box: Mailbox) -> None:
    answer = make_envelope("1/alpha/train", body=b"first")
    assert box.post(answer)
    assert not box.post(make_envelope("1/alpha/train", body=b"second"))
    assert box.sent("1/alpha/train") == answer
    box.delivered(answer.id)
    assert box.sent("1/alpha/train") == answer, "delivered, and still known"
    assert box.sent("2/alpha/train") is None


def test_a_repost_takes_the_place_of_a_delivered_answer(box: Mailbox) -> None:
    answer, again = make_envelope("1/alpha/train"), make_envelope("1/alpha/train")
    box.post(answer)
    box.delivered(answer.id)
    box.repost(again)
    assert [envelope for _, envelope in box.pending()] == [again]
    assert box.sent("1/alpha/train") == again


def test_the_journal_holds_the_newest_value_of_each_key(box: Mailbox) -> None:
    box.write("state", b"1")
    box.write("state", b"2")
    box.write("silo/a", b"")
    box.write("silo_b", b"x")
    assert box.read("state") == b"2" and box.read("silo/a") == b"" and box.read("other") is None
    assert box.keys("silo/") == ["silo/a"] and box.keys() == ["silo/a", "silo_b", "state"]
    assert box.keys("%") == [], "a prefix is no pattern"


def test_a_transaction_is_all_or_nothing(box: Mailbox) -> None:
    with pytest.raises(RuntimeError), box.transaction():
        box.write("state", b"1")
        with box.transaction():
            box.post(make_envelope())
        raise RuntimeError
    assert box.read("state") is None and box.pending() == []
    with box.transaction():
        box.write("state", b"2")
        box.post(make_envelope())
    assert box.read("state") == b"2" and len(box.pending()) == 1


def test_it_can_be_used_after_a_failed_transaction_inside_another(box: Mailbox) -> None:
    with box.transaction():
        box.write("outer", b"1")
        with pytest.raises(RuntimeError), box.transaction():
            raise RuntimeError
        box.write("later", b"1")
    assert box.keys() == ["later", "outer"]


def test_parent_and_child_see_each_others_rows(box: Mailbox) -> None:
    code = (
        "import sys; from pathlib import Path; from octopus_desktop.storage.mailbox import Mailbox\n"
        "box = Mailbox(Path(sys.argv[1])); box.done(box.inbox()[0][0]); box.write('seen', b'yes')"
    )
    box.accept(make_envelope())
    subprocess.run([sys.executable, "-c", code, str(box.path)], check=True, timeout=30)
    assert box.inbox() == [] and box.read("seen") == b"yes"


def test_what_was_acknowledged_survives_a_kill_and_what_was_not_is_wholly_absent(box: Mailbox) -> None:
    code = (
        "import sys, time; from pathlib import Path; from octopus_desktop.storage.mailbox import Mailbox\n"
        "from octopus_desktop.wire.pb.envelope_pb2 import Envelope\n"
        "box = Mailbox(Path(sys.argv[1]))\n"
        "for i in range(50): box.accept(Envelope(id=str(i)))\n"
        "with box.transaction():\n"
        "    box.write('half', b'1'); box.post(Envelope(id='half'))\n"
        "    print('now', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(box.path)], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"now\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    again = Mailbox(box.path)
    assert [envelope.id for _, envelope in again.inbox()] == [str(i) for i in range(50)]
    assert again.read("half") is None and again.pending() == []


def test_threads_of_one_process_do_not_mix_their_transactions(box: Mailbox) -> None:
    def work(name: str) -> None:
        for i in range(30):
            with box.transaction():
                box.write(f"{name}/{i}", b"1")
                box.post(make_envelope(recipient=name))

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(box.keys()) == len(box.pending()) == 90
    assert all(len(box.pending(name)) == 30 for name in ("a", "b", "c"))
