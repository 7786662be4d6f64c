"""``octopus setup``: the organisation, the administrator and the approver's own key."""

from __future__ import annotations

import click

from octopus_desktop.cli.common import (
    approver,
    daemon_api,
    emit,
    facts,
    home_of_silo,
    json_option,
    request_id,
)


@click.command("setup")
@click.option("--organisation", required=True, help="As other silos and the coordinator know it.")
@click.option("--administrator", required=True, help="Who approves jobs here; stands in every decision.")
@json_option
def cli(organisation: str, administrator: str) -> None:
    """Name this silo's organisation and administrator, and make the approver's key.

    The key is kept in the OS keyring, or in a file sealed by a passphrase where there is none.
    """
    from octopus_desktop.wire.canonical import fingerprint
    from octopus_desktop.wire.pb.local_pb2 import ConfigureRequest

    api = daemon_api()
    key = approver(home_of_silo(), administrator)
    status = api.call(
        "Setup.Configure",
        ConfigureRequest(
            organisation=organisation, administrator=administrator, approver_key=key.public, request_id=request_id()
        ),
    )
    locked = status.secrets.startswith("locked")
    emit(
        status,
        lambda: facts(
            "This silo is set up.",
            [
                ("organisation", status.organisation),
                ("administrator", status.administrator),
                ("approver's key", fingerprint(key.public)),
                ("secrets are in", status.secrets),
                ("next", "octopus federation enrol INVITATION" if not locked else "octopus daemon unlock"),
            ],
        ),
    )
