"""An invitation survives e-mail, and a damaged one is refused with its reason."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octopus_desktop.identity import invitations
from octopus_desktop.identity.authority import Authority
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.federation_pb2 import Invitation

AUTHORITY = Authority.create("Heart Alliance")
TICKET = AUTHORITY.invite("fed.example.org:8443", valid_s=3600)
TEXT = invitations.encode(TICKET)


def refused(text: str) -> UserError:
    with pytest.raises(UserError) as error:
        invitations.decode(text)
    assert error.value.code == "OCT-ENROL-INVALID" and error.value.next_step
    return error.value


FORMS = {
    "bare": TEXT,
    "link": invitations.to_link(TICKET),
    "link with a slash": invitations.to_link(TICKET) + "/",
    "file": invitations.to_file_text(TICKET),
    "file with Windows line ends": invitations.to_file_text(TICKET).replace("\n", "\r\n"),
    "wrapped": "\n".join(textwrap.wrap(TEXT, 60)),
    "quoted in a reply": "\n".join("> " + line for line in invitations.to_file_text(TICKET).splitlines()),
    "quoted twice": "\n".join(">> " + line for line in textwrap.wrap(TEXT, 60)),
    "in angle brackets": f"  <{invitations.to_link(TICKET)}>\n",
    "in quotation marks": f"“{TEXT}”",
    "with invisible characters": "\ufeff" + TEXT[:50] + "\u200b\u00ad" + TEXT[50:],
    "padded and ended with a dot": TEXT + "=.",
}


@pytest.mark.parametrize("form", FORMS)
def test_it_is_read_in_every_form_that_people_paste(form: str) -> None:
    assert invitations.decode(FORMS[form]) == TICKET


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(TEXT)), max_size=30))
def test_line_breaks_anywhere_do_no_harm(places: list[int]) -> None:
    text = TEXT
    for place in sorted(places, reverse=True):
        text = text[:place] + "\r\n " + text[place:]
    assert invitations.decode(text) == TICKET


@settings(max_examples=100, deadline=None)
@given(st.integers(len(invitations.PREFIX), len(TEXT) - 1), st.sampled_from("AZaz09-_é!"))
def test_any_changed_character_is_noticed(place: int, character: str) -> None:
    if TEXT[place] != character:
        changed = TEXT[:place] + character + TEXT[place + 1 :]
        try:
            assert invitations.decode(changed) == TICKET  # the last character's unused bits say nothing
            assert place == len(TEXT) - 1
        except UserError as error:
            assert error.code == "OCT-ENROL-INVALID"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(TEXT) - 3))
def test_any_cut_is_noticed(length: int) -> None:
    refused(TEXT[:length])


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300))
def test_arbitrary_text_is_refused_and_nothing_else_happens(text: str) -> None:
    refused(text)
    refused(invitations.PREFIX + text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no text"),
        ("hello", "first characters are missing"),
        ("https://example.org/invite", "web address"),
        ("-----BEGIN CERTIFICATE-----\nMIIB", "certificate"),
        ("OCTOPUS2." + TEXT[9:], "format 2"),
        (TEXT[:-40], "cut off: about 40 characters"),
        (TEXT + "AAAA", "follows its end"),
        (invitations.to_file_text(TICKET).rsplit("-----END", 1)[0], "END line"),
        (TEXT[:100] + "ä" + TEXT[101:], "'ä' stands at character 101"),
        ("x" * 70_000, "too long"),
    ],
)
def test_the_reason_is_told(text: str, reason: str) -> None:
    assert reason in refused(text).why


def test_an_invitation_whose_parts_do_not_belong_together_is_refused() -> None:
    other = Authority.create("Other").invite("fed.example.org:8443")
    for change in (
        {"ca_der": other.ca_der},
        {"key_seed": other.key_seed},
        {"key_seed": b"short"},
        {"id": "inv-other"},
        {"role": "server"},
        {"server": "nowhere"},
        {"federation": ""},
        {"certificate_der": b"junk"},
    ):
        damaged = Invitation()
        damaged.CopyFrom(TICKET)
        for name, value in change.items():
            setattr(damaged, name, value)
        refused(invitations.encode(damaged))


def test_expiry_is_told_with_its_time() -> None:
    invitations.check_current(TICKET)
    with pytest.raises(UserError) as late:
        invitations.check_current(TICKET, now=TICKET.expires_at + 1)
    assert late.value.code == "OCT-ENROL-EXPIRED" and "UTC" in late.value.why


def test_the_file_tells_a_person_what_it_is_and_nothing_secret_beside_the_invitation() -> None:
    head = invitations.to_file_text(TICKET).split(invitations.BEGIN)[0]
    assert "Heart Alliance" in head and "fed.example.org:8443" in head and AUTHORITY.fingerprint in head
