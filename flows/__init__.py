"""Prefect flows, and the `ost` command."""
