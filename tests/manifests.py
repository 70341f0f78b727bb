"""The manifest of a package that a test makes by hand."""

from __future__ import annotations

from typing import Any

from edgetx.core import IOSpec
from edgetx.package import IOEntry, Manifest


def manifest(name: str, io: IOSpec, **fields: Any) -> Manifest:
    """What no test looks at has one value; `fields` are those of `Manifest`."""
    given: dict[str, Any] = {
        "edgetx_version": "0",
        "created": "2026-01-01T00:00:00+00:00",
        "architecture": "generic",
        "source": "tests",
        "weights": "random",
        "opset": 20,
    }
    return Manifest(name=name, io=IOEntry.of(io), **{**given, **fields})
