"""The `ost` command: the library's calls, and the flows, from a shell."""

from flows.cli.main import main

__all__ = ["main"]
