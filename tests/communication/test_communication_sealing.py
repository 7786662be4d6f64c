"""Sealed sessions: who gets one, what opens, and what does not."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from octopus_desktop.communication import sealing
from octopus_desktop.communication.contract import PROTOCOL, SERVER
from octopus_desktop.communication.sealing import COUNTER_MOST, HEADER_BYTES, Dialling, Header, SealError, Seals
from octopus_desktop.communication.wires import Lane
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.sealed_pb2 import Accepting, Opening
from tests.communication.parts import Keys


def agree(keys: Keys, name: str = "alpha", *, unsealed: bool = False, at_server: bool = True) -> tuple[Seals, Seals]:
    """The silo's and the server's keys of one session."""
    keys.silo(name)
    dialling = Dialling(keys.silo_party(name), PROTOCOL, unsealed=unsealed)
    opening = sealing.read_opening(dialling.message)
    assert opening is not None
    answer, theirs = sealing.accept(keys.server_party(), opening, address=name, unsealed=at_server)
    mine = dialling.accepted(answer)
    assert mine is not None
    return mine, theirs


def opened(seals: Seals, message: bytes) -> bytes:
    header = Header.read(message)
    if header.session != seals.session:
        raise SealError("of another session")
    return bytes(seals.theirs[header.lane].open(header.counter, message))


def refusal(keys: Keys, opening: Opening, address: str, **options: object) -> UserError:
    with pytest.raises(UserError) as caught:
        sealing.accept(keys.server_party(), opening, address=address, **options)  # type: ignore[arg-type]
    return caught.value


def opening_of(keys: Keys, name: str = "alpha", clock: Callable[[], float] | None = None) -> tuple[Dialling, Opening]:
    keys.silo(name)
    options = {"clock": clock} if clock else {}
    dialling = Dialling(keys.silo_party(name), PROTOCOL, **options)
    opening = sealing.read_opening(dialling.message)
    assert opening is not None
    return dialling, opening


# what opens


@pytest.mark.parametrize("lane", Lane)
@pytest.mark.parametrize("size", [0, 1, 1 << 20])
def test_what_one_side_seals_the_other_opens(lane: Lane, size: int) -> None:
    silo, server = agree(Keys())
    data = bytes(i % 251 for i in range(size))
    for a, b in ((silo, server), (server, silo)):
        message = a.mine[lane].seal(7, data)
        assert opened(b, message) == data
        assert len(message) == size + sealing.OVERHEAD_BYTES
        assert size < 16 or data not in message


def test_a_message_that_was_changed_anywhere_or_cut_does_not_open() -> None:
    silo, server = agree(Keys())
    message = silo.mine[Lane.MAIL].seal(3, b"the body of a message")
    for at in range(len(message)):
        changed = message[:at] + bytes((message[at] ^ 0x10,)) + message[at + 1 :]
        with pytest.raises(SealError):
            opened(server, changed)
        with pytest.raises(SealError):
            opened(server, message[:at])
    with pytest.raises(SealError):
        opened(server, message + b"\0")


def test_a_message_opens_only_in_its_own_session_lane_direction_and_place() -> None:
    keys = Keys()
    silo, server = agree(keys)
    again, _ = agree(keys)
    message = silo.mine[Lane.MAIL].seal(0, b"once")
    session, counter = silo.session, (0).to_bytes(8, "big")
    assert message[:HEADER_BYTES] == bytes((1, 3)) + session + bytes((Lane.MAIL,)) + counter
    moved = {
        "another session": bytes((1, 3)) + again.session + bytes((Lane.MAIL,)) + counter,
        "the other lane": bytes((1, 3)) + session + bytes((Lane.BULK,)) + counter,
        "another place": bytes((1, 3)) + session + bytes((Lane.MAIL,)) + (1).to_bytes(8, "big"),
        "in the clear": bytes((1, 4)) + session + bytes((Lane.MAIL,)) + counter,
    }
    for where, header in moved.items():
        for seals in (server, again):
            with pytest.raises(SealError):
                seals.theirs[Lane(header[18])].open(int.from_bytes(header[19:]), header + message[HEADER_BYTES:])
                raise AssertionError(f"it opened in {where}")
    with pytest.raises(SealError):
        opened(silo, message)  # sent back to where it came from


def test_numbers_are_never_used_up_in_secret() -> None:
    silo, server = agree(Keys())
    last = silo.mine[Lane.BULK].seal(COUNTER_MOST - 1, b"x")
    assert opened(server, last) == b"x"
    with pytest.raises(UserError) as caught:
        silo.mine[Lane.BULK].seal(COUNTER_MOST, b"x")
    assert caught.value.code == "OCT-LINK-DOWN" and "anew" in caught.value.next_step
    with pytest.raises(SealError):
        Header.read(last[:19] + COUNTER_MOST.to_bytes(8, "big") + last[27:])


@pytest.mark.parametrize("junk", [b"", b"\1", b"\1\3" + bytes(10), b"\2\3" + bytes(40), b"\1\x09" + bytes(40)])
def test_junk_is_no_message_and_no_greeting(junk: bytes) -> None:
    with pytest.raises(SealError):
        Header.read(junk)
    assert sealing.read_opening(junk) is None
    assert sealing.read_opening(b"\1\1" + junk) is None
    assert sealing.read_opening(b"\1\1" + bytes(sealing.GREETING_BYTES)) is None


def test_keys_stay_out_of_what_is_printed() -> None:
    silo, _ = agree(Keys())
    assert repr(silo) == f"Seals({silo.session.hex()})" and "Cipher" not in repr(silo.mine)


# clear blobs, where both want them


@pytest.mark.parametrize(("silo_wants", "server_wants"), list(itertools.product((False, True), repeat=2)))
def test_blobs_go_in_the_clear_only_where_both_sides_said_so(silo_wants: bool, server_wants: bool) -> None:
    silo, server = agree(Keys(), unsealed=silo_wants, at_server=server_wants)
    both = silo_wants and server_wants
    assert silo.unsealed is server.unsealed is both
    message = silo.mine[Lane.BULK].seal(0, b"weights of a model")
    assert (b"weights" in message) is both
    assert opened(server, message) == b"weights of a model"
    assert b"secret" not in silo.mine[Lane.MAIL].seal(0, b"secret"), "mail is sealed always"
    if both:
        sealed = bytes((1, 3)) + message[2:]
        with pytest.raises(SealError):
            opened(server, sealed)


def test_a_server_cannot_have_a_silos_blobs_in_the_clear_without_its_consent() -> None:
    keys = Keys()
    dialling, opening = opening_of(keys)
    answer, _ = sealing.accept(keys.server_party(), opening, address="alpha")
    accepting = Accepting.FromString(answer[2:])
    accepting.unsealed_blobs = True
    accepting.signature = keys.signing[SERVER].sign(sealing.accepting_bytes(opening, accepting))
    with pytest.raises(UserError) as caught:
        dialling.accepted(answer[:2] + accepting.SerializeToString())
    assert caught.value.code == "OCT-LINK-SEAL" and "consent" in caught.value.why


# who gets a session


def test_refusals_are_signed_and_name_the_reason() -> None:
    keys = Keys()
    keys.silo("beta")
    dialling, opening = opening_of(keys)
    changed = Opening()
    changed.CopyFrom(opening)
    changed.unsealed_blobs = True
    impostor, forged = opening_of(keys.impostor())
    other, foreign = opening_of(Keys())
    keys.revoked.add("gone")
    revoked, old_member = opening_of(keys, "gone")
    stranger, unknown = opening_of(keys, "nobody")
    del keys.signing["nobody"]
    for who, refused, address, code in (
        (dialling, opening, "beta", "OCT-LINK-SEAL"),  # a claimed name
        (dialling, changed, "alpha", "OCT-LINK-SEAL"),
        (impostor, forged, "alpha", "OCT-LINK-SEAL"),
        (other, foreign, "alpha", "OCT-LINK-SEAL"),
        (revoked, old_member, "gone", "OCT-CERT-REVOKED"),
        (stranger, unknown, "nobody", "OCT-ENROL-ROLE"),
    ):
        fault = refusal(keys, refused, address)
        assert fault.code == code and fault.next_step
        answer = sealing.refuse(keys.signing[SERVER], refused, fault)
        if who is other:  # trusts another server, and rightly hears nothing
            assert who.accepted(answer) is None
        elif refused is not changed:
            with pytest.raises(UserError) as caught:
                who.accepted(answer)
            assert caught.value.code == code


@pytest.mark.parametrize("off", [-300.0, 300.0])
def test_a_clock_that_is_off_is_named_with_its_way_and_size(off: float) -> None:
    keys = Keys()
    dialling, opening = opening_of(keys, clock=lambda: 1000.0 + off)
    fault = refusal(keys, opening, "alpha", clock=lambda: 1000.0)
    assert fault.code == "OCT-CLOCK-OFF"
    assert f"silo's clock is 300 s {'ahead of' if off > 0 else 'behind'} the server's" in fault.why
    with pytest.raises(UserError) as caught:
        dialling.accepted(sealing.refuse(keys.signing[SERVER], opening, fault, clock=lambda: 1000.0))
    assert caught.value.code == "OCT-CLOCK-OFF"


@pytest.mark.parametrize("off", [-300.0, 300.0, 3600.0])
def test_the_silo_minds_the_servers_clock_too(off: float) -> None:
    keys, now = Keys(), [1000.0]
    dialling, opening = opening_of(keys, clock=lambda: now[0])
    answer, _ = sealing.accept(keys.server_party(), opening, address="alpha", clock=lambda: 1000.0)
    now[0] -= off
    with pytest.raises(UserError) as caught:
        dialling.accepted(answer)
    assert caught.value.code == "OCT-CLOCK-OFF"
    span = "60 min" if off == 3600 else "300 s"
    assert f"server's clock is {span} {'ahead of' if off > 0 else 'behind'} the silo's" in caught.value.why


def test_a_clock_within_the_bound_is_good_enough() -> None:
    keys = Keys()
    _, opening = opening_of(keys, clock=lambda: 1000.0)
    sealing.accept(keys.server_party(), opening, address="alpha", clock=lambda: 1000.0 + sealing.CLOCK_S)


def test_another_protocol_is_told_to_members_alone() -> None:
    keys = Keys()
    _, opening = opening_of(keys)
    _, forged = opening_of(keys.impostor())
    fault = UserError("OCT-LINK-PROTOCOL", "Another version.")
    assert refusal(keys, opening, "alpha", protocol_fault=fault) is fault
    assert refusal(keys, forged, "alpha", protocol_fault=fault).code == "OCT-LINK-SEAL"


def test_an_answer_that_the_server_did_not_sign_is_silence() -> None:
    keys = Keys()
    dialling, opening = opening_of(keys)
    _, second = opening_of(keys)
    answer, _ = sealing.accept(keys.server_party(), opening, address="alpha")
    other, _ = sealing.accept(keys.server_party(), second, address="alpha")
    assert dialling.accepted(other) is None, "the answer to another Opening"
    fields = Accepting.FromString(answer[2:])
    for change in (
        {"signature": b""},
        {"signature": bytes(64)},
        {"share": bytes(31) + b"\1"},
        {"unsealed_blobs": True},
        {"at": fields.at + 1},
        {"fault": UserError("OCT-CERT-REVOKED", "Revoked.").to_fault()},
    ):
        changed = Accepting()
        changed.CopyFrom(fields)
        changed.MergeFrom(Accepting(**change))
        if change.get("signature") == b"":
            changed.ClearField("signature")
        assert dialling.accepted(answer[:2] + changed.SerializeToString()) is None, change
    assert dialling.accepted(answer[:-3]) is None and dialling.accepted(b"") is None
    assert dialling.accepted(answer) is not None


def test_a_share_of_low_order_agrees_on_nothing() -> None:
    keys = Keys()
    dialling, opening = opening_of(keys)
    party = keys.silo_party("alpha")
    opening.share = bytes(32)
    opening.signature = party.signing.sign(sealing.opening_bytes(opening, party.server_key))
    assert refusal(keys, opening, "alpha").code == "OCT-LINK-SEAL"
    dialling, opening = opening_of(keys)
    accepting = Accepting(session=opening.session, share=bytes(32), at=opening.at)
    accepting.signature = keys.signing[SERVER].sign(sealing.accepting_bytes(opening, accepting))
    with pytest.raises(UserError) as caught:
        dialling.accepted(b"\1\2" + accepting.SerializeToString())
    assert caught.value.code == "OCT-LINK-SEAL"


def test_a_replayed_opening_agrees_on_keys_that_open_nothing_of_before() -> None:
    keys = Keys()
    dialling, opening = opening_of(keys)
    answer, _ = sealing.accept(keys.server_party(), opening, address="alpha")
    silo = dialling.accepted(answer)
    assert silo is not None
    recorded = silo.mine[Lane.MAIL].seal(0, b"hello")
    _, again = sealing.accept(keys.server_party(), opening, address="alpha")
    with pytest.raises(SealError):
        opened(again, recorded)


def test_that_a_session_is_unknown_is_believed_only_to_the_server_and_only_of_later() -> None:
    keys = Keys()
    silo, _ = agree(keys)
    party = keys.silo_party("alpha")
    now = silo.at + 1
    word = sealing.unknown(keys.server_party(), silo.session, clock=lambda: now)
    fault = sealing.told_unknown(word, silo, party)
    assert fault is not None and fault.code == "OCT-LINK-DOWN"
    early = sealing.unknown(keys.server_party(), silo.session, clock=lambda: silo.at - 1)
    assert sealing.told_unknown(early, silo, party) is None
    assert sealing.told_unknown(sealing.unknown(Keys().server_party(), silo.session), silo, party) is None
    assert sealing.told_unknown(sealing.unknown(keys.server_party(), bytes(16), clock=lambda: now), silo, party) is None
    assert sealing.told_unknown(b"junk", silo, party) is None
