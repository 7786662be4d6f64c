"""Alembic's migrations of the federation server's database, run at each start of the server."""
