"""The `edgetx` command; the only part of edgetx that prints."""

from edgetx.cli.app import app, main

__all__ = ["app", "main"]
