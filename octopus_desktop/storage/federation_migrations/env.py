"""Alembic's entry: works on the connection that ``storage.federation_db`` hands over; never opens one of its own."""

from alembic import context

from octopus_desktop.storage.federation_tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
