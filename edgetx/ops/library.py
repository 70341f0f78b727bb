"""Where edgetx's operator library for ONNX Runtime is, and why it may not be there."""

from __future__ import annotations

import os
from functools import cache
from importlib.resources import files
from pathlib import Path

NAME = "libedgetx_ort.so"
VARIABLE = "EDGETX_OPS_LIBRARY"


def path() -> str | None:
    """The library's file, or None where it is missing; `EDGETX_OPS_LIBRARY` names another one."""
    found = _find(os.environ.get(VARIABLE))
    return None if found is None else str(found)


def why_not() -> str | None:
    """None if the library is there, else what is missing and how to get it."""
    if path() is not None:
        return None
    given = os.environ.get(VARIABLE)
    if given:
        return f"{VARIABLE}={given} is not a file; unset it or give the path of {NAME}"
    return f"{NAME} is not in this installation; install an edgetx wheel, or build it: pip install ."


@cache
def _find(given: str | None) -> Path | None:
    if given:
        return Path(given) if Path(given).is_file() else None
    package = Path(str(files("edgetx.ops")))
    candidates = (package / NAME, package.parents[1] / "build" / "dev" / NAME)
    return next((candidate for candidate in candidates if candidate.is_file()), None)
