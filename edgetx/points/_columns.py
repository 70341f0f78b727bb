"""Columns by name, for the formats that have names."""

from __future__ import annotations

from collections.abc import Sequence

from edgetx.errors import InputError

_INTENSITY = ("intensity", "reflectance", "reflectivity", "i")
_FIFTH = ("ring", "elongation", "time", "timestamp", "t")


def choose(path: str, names: Sequence[str], columns: int) -> list[str]:
    """The names, as the file spells them, of x, y, z, the intensity and, for five columns, the other one.

    Raises:
        InputError: one is missing, or several could be the fifth.
    """
    given = {name.lower(): name for name in names}
    chosen = []
    for wanted in ("x", "y", "z"):
        if wanted not in given:
            raise InputError(f"{path} has the fields {' '.join(names)}; {wanted} is missing")
        chosen.append(given[wanted])
    intensity = next((given[name] for name in _INTENSITY if name in given), None)
    if intensity is None:
        raise InputError(
            f"{path} has the fields {' '.join(names)}; an intensity ({', '.join(_INTENSITY)}) is missing"
        )
    chosen.append(intensity)
    if columns == 5:
        fifth = [given[name] for name in _FIFTH if name in given]
        if len(fifth) != 1:
            raise InputError(
                f"{path} has the fields {' '.join(names)}; this model takes five, and the fifth "
                + (
                    f"could be {' or '.join(fifth)}: keep one"
                    if fifth
                    else f"({', '.join(_FIFTH)}) is missing"
                )
            )
        chosen += fifth
    return chosen
