"""Dialogs that decide or end something: each says what it will do, asks once, and hands back plain data."""
