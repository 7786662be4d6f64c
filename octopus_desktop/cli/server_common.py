"""What the files of ``octopus server …`` share: where the federation's home is, and a client of its operator socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from octopus_desktop.cli.common import Api, json_option, server_api
from octopus_desktop.system.paths import FederationHome, federation_home


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--home`` and ``--json`` at the end of every command, as well as before."""

    def remember(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value:
            ctx.ensure_object(dict)["server_home"] = value

    home = click.option("--home", metavar="DIR", expose_value=False, callback=remember, help="The federation's home.")
    return home(json_option(command))


def home_of_server() -> FederationHome:
    ctx = click.get_current_context()
    given = ctx.ensure_object(dict).get("server_home")
    if not given and ctx.find_root().get_parameter_source("home") is click.core.ParameterSource.COMMANDLINE:
        given = ctx.find_root().params["home"]
    return federation_home(given)


def operator() -> Api:
    return server_api(home_of_server())
