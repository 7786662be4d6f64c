"""``octopus logs``: what happened in daemon and runs."""

from __future__ import annotations

import click

from octopus_desktop.cli.common import daemon_api, emit, json_option, to_dict, when


@click.command("logs")
@click.option("--limit", type=click.IntRange(1), default=100)
@click.option("--level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@click.option("--run", default="", help="Only this run.")
@click.option("--text", default="", help="Only lines that hold this text.")
@click.option("--follow", is_flag=True, help="Go on with new lines as they come.")
@json_option
def cli(limit: int, level: str, run: str, text: str, follow: bool) -> None:
    """What happened in daemon and runs."""
    from octopus_desktop.wire.pb.local_pb2 import LogPageRequest

    api = daemon_api()
    request = LogPageRequest(limit=limit, level=level, run_id=run, text=text)
    if not follow:
        page = api.call("Logs.Page", request)
        return emit([to_dict(line) for line in page.lines], lambda: _print(page.lines))
    for page in api.stream("Logs.Tail", request):
        _print(page.lines)


def _print(lines) -> None:  # type: ignore[no-untyped-def]
    for line in lines:
        click.echo(f"{when(line.at)} {line.level:<7} {line.source:<12} {line.text}")
