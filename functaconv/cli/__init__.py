"""The command line: parses, calls one workflow, shows its result. Heavy imports wait until a command runs."""

from functaconv.cli.app import main

__all__ = ["main"]
