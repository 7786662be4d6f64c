"""``octopus completion SHELL``: the script that click makes for bash, zsh and fish."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def cli(shell: str) -> None:
    """Print the completion script; put it where your shell reads it, e.g.

    octopus completion bash > ~/.local/share/bash-completion/completions/octopus
    """
    from octopus_desktop.cli.main import cli as root

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root, {}, "octopus", "_OCTOPUS_COMPLETE").source())
