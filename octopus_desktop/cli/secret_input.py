"""How commands get secrets: from a prompt or standard input, never from an argument, which every user could read."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from octopus_desktop.wire.errors import UserError


def secret_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--password`` and ``--store-secret``, each from a prompt or (``…-stdin``) from a line of standard input. The
    command gets them as ``secrets``: a function of whether to ask for the password at a terminal all the same."""

    def with_secrets(
        *, password: bool, password_stdin: bool, store_secret: bool, store_secret_stdin: bool, **others: Any
    ) -> Any:
        def secrets(ask: bool = False, ask_store: bool = False) -> tuple[bytes, bytes]:
            return (
                read_secret("Password", password or ask, password_stdin),
                read_secret("S3 secret", store_secret or ask_store, store_secret_stdin),
            )

        return command(secrets=secrets, **others)

    with_secrets.__name__, with_secrets.__doc__ = command.__name__, command.__doc__
    with_secrets.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    made: Callable[..., Any] = with_secrets
    for name, text in (
        ("--store-secret-stdin", "Read the S3 secret from standard input: its next line."),
        ("--store-secret", "Ask for the S3 secret at a prompt."),
        ("--password-stdin", "Read the password from standard input: its first line."),
        ("--password", "Ask for the password at a prompt."),
    ):
        made = click.option(name, is_flag=True, help=text)(made)
    return made


def at_terminal() -> bool:
    return sys.stdin.isatty()


def read_secret(what: str, prompt: bool, stdin: bool) -> bytes:
    """A line of standard input, or what is typed at a prompt; empty when neither is wanted. Raises OCT-CLI-USAGE."""
    if stdin:
        line = sys.stdin.readline().rstrip("\r\n")
        if not line:
            raise UserError(
                "OCT-CLI-USAGE",
                f"There is no {what.lower()} on standard input.",
                "The line is empty.",
                "Pipe it in, or leave the option away and use the prompt.",
            )
        return line.encode()
    if prompt and not at_terminal():
        raise UserError(
            "OCT-CLI-USAGE",
            f"The {what.lower()} cannot be asked for.",
            "Standard input is no terminal.",
            "Use the option that ends in -stdin.",
        )
    return str(click.prompt(what, hide_input=True, err=True)).encode() if prompt else b""
