"""Built engines: the cache in a package's folder, and what a runtime needs to fill it.

    NAME/engines/<runtime>-<hash>/
      engine.plan    the engine as its builder wrote it, nothing before or after
      engine.json    the `Record`: every field of the key in words, size and SHA-256 of the plan, its profiles

The folder's name is the hash of the key. An engine is built in a child process into a hidden folder and
renamed at the end; a lock lets one process build while others wait. Needs no framework, but for `graph`.
"""

from edgetx.engines.cache import Cache, Engine, Key, Record, identity, model_digest
from edgetx.engines.ranges import Ranges, Request, choose, parse_range, show_ranges

__all__ = [
    "Cache",
    "Engine",
    "Key",
    "Ranges",
    "Record",
    "Request",
    "choose",
    "identity",
    "model_digest",
    "parse_range",
    "show_ranges",
]
