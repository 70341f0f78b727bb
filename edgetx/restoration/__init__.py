"""Pictures through a restoration package: whole or in tiles, within a memory budget."""

from edgetx.restoration.memory import parse_size
from edgetx.restoration.restorer import Report, Restored, Restorer, restore

__all__ = ["Report", "Restored", "Restorer", "parse_size", "restore"]
