"""The ``octopus`` command: finds each noun's file when it is asked for. Imports click and nothing heavier."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from octopus_desktop import __version__

# name -> (one line of help, hidden module below octopus_desktop.cli)
NOUNS: dict[str, str] = {
    "setup": "Name this silo's organisation and administrator, and make the approver's key.",
    "daemon": "Start, stop and inspect the silo's background process.",
    "federation": "Enrol in federations, check links, renew, leave.",
    "node": "The silo's machines: register, add further ones, drain, remove.",
    "runtime": "The Python environments that jobs may train in: add, check, remove.",
    "dataset": "The data that jobs may ask for: register, check, relocate, remove.",
    "approvals": "Read offered jobs; approve, reject, revoke.",
    "runs": "Watch, pause, resume, stop runs; export their models.",
    "policy": "Standing rules: what is accepted without asking.",
    "audit": "The tamper-evident record: list, verify, export.",
    "logs": "What happened in daemon and runs.",
    "server": "Run a federation: its server, invitations, silos, jobs and runs.",
    "jobs": "Write, check, build, sign and submit job packages.",
    "simulate": "Run a job on virtual silos on this machine.",
    "demo": "A whole federation of four hospitals on this machine.",
    "completion": "Print the shell completion script.",
}


class Nouns(click.Group):
    """Loads ``octopus_desktop.cli.<noun>`` on use; ``--help`` needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(NOUNS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in NOUNS:
            return None
        module = importlib.import_module(f"octopus_desktop.cli.{name}")
        command: click.Command = module.cli
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in NOUNS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], NOUNS, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            ctx.fail(f"There is no command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(NOUNS.items()))


@click.group(cls=Nouns, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="octopus")
@click.option("--home", metavar="DIR", envvar="OCTOPUS_HOME", help="The silo's directory.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
@click.pass_context
def cli(ctx: click.Context, home: str | None, as_json: bool) -> None:
    """Octopus Desktop on the command line: whatever the window can do, and the federation's side as well."""
    ctx.obj = {"home": home, "json": as_json}


def main(arguments: list[str] | None = None) -> Any:
    """Entry point: prints a UserError as what, why, next step and code, and exits with 1."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what gRPC would say of a lost link, an error says
    from octopus_desktop.wire.errors import UserError

    try:
        return cli.main(arguments, prog_name="octopus", standalone_mode=True)
    except UserError as error:
        from octopus_desktop.cli.common import print_error

        print_error(error, as_json="--json" in (arguments if arguments is not None else sys.argv))
        sys.exit(1)


if __name__ == "__main__":
    main()
