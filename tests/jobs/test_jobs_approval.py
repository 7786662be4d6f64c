"""What an approver signs is one string of bytes for one meaning, and nothing else is read as such."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octopus_desktop.jobs.approval import Conditions, Statement

STATEMENT = Statement(
    run_id="r1",
    verdict="approved",
    package_digest="a" * 64,
    config_digest="b" * 64,
    data_scope={"patients": "c" * 64},
    conditions=Conditions(datasets={"patients": "d1"}, hours_of_day=((18, 24), (0, 6)), max_rounds=50),
    decided_by="Dr. Ada Hall",
    decided_at=1.5,
)


def test_a_statement_goes_round() -> None:
    assert Statement.from_bytes(STATEMENT.to_bytes()) == STATEMENT


RAW = STATEMENT.to_bytes()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b"\xff",
        RAW + b" ",
        RAW.replace(b"approval/1", b"approval/2"),
        RAW.replace(b'"verdict"', b'"verdikt"'),
        RAW.replace(b'"max_rounds":50', b'"max_rounds": 50'),
        RAW.replace(b'"max_rounds":50', b'"max_round":50'),
        RAW.replace(b'"max_rounds":50', b'"max_rounds":1,"max_rounds":50'),
        RAW.replace(b"[[18,24],[0,6]]", b'[["18",24],[0,6]]'),
        RAW.replace(b"[[18,24],[0,6]]", b"[18,24]"),
    ],
)
def test_what_is_not_exactly_a_statement_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        Statement.from_bytes(raw)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_a_changed_byte_is_another_statement_or_none(place: int, change: int) -> None:
    changed = bytearray(RAW)
    changed[place] ^= change
    try:
        assert Statement.from_bytes(bytes(changed)) != STATEMENT
    except ValueError:
        pass
