"""The command line. One file per command; nothing heavy is imported before a command needs it."""

from dcam_core.cli.main import main

__all__ = ["main"]
