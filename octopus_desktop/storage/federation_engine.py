"""How the federation's database is opened and brought to this version. Knows no table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from octopus_desktop.wire.errors import UserError

MIGRATIONS = Path(__file__).with_name("federation_migrations")


def sqlite_url(path: Path) -> str:
    return sa.URL.create("sqlite", database=str(path)).render_as_string()


def migrate(engine: Engine) -> None:
    """Bring the database to this version. Raises OCT-STATE-NEWER when it is of a later one."""
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in script.walk_revisions()}
    with engine.begin() as connection:
        there = set(MigrationContext.configure(connection).get_current_heads())
        if there - known:
            raise UserError(
                "OCT-STATE-NEWER",
                "The federation's database was written by a newer version.",
                f"It is at revision {', '.join(sorted(there - known))}; this version knows up to {max(known)}.",
                "Update Octopus Desktop on this machine, or restore a backup from before the update.",
            )
        if there != set(script.get_heads()):
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def open_engine(url: str) -> Engine:
    """Raises OCT-CONFIG-INVALID."""
    try:
        engine = sa.create_engine(url, connect_args={"timeout": 30} if url.startswith("sqlite") else {})
    except (sa.exc.ArgumentError, ImportError) as error:
        raise UserError(
            "OCT-CONFIG-INVALID",
            "The federation's database cannot be opened.",
            f"Its address is not usable: {error}.",
            "Correct 'database' in federation.toml, or install the database's Python driver.",
        ) from error
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def prepare(connection: Any, _: Any) -> None:
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

    return engine
