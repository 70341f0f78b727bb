"""What to build an engine for: targets, and the ranges of the symbols that shapes are made of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgetx.core import SymbolRange
from edgetx.errors import InputError
from edgetx.package import GOLDEN
from edgetx.profiles import Range

if TYPE_CHECKING:
    from edgetx.package import Package

Ranges = Mapping[str, Range]
"""One optimisation profile: a range per symbol of the inputs."""

LARGEST_BATCH = 8
"""The largest `batch` of an engine where nobody says another."""
LARGEST_GROWTH = 2
"""The largest of any other size, in multiples of the golden input's, where nobody says another."""
SECONDS = 900.0
"""The longest that a build may take where nobody says another."""

_RANGE = re.compile(r"([A-Za-z_]\w*)=(\d+)(?::(\d+):(\d+))?")


@dataclass(frozen=True, slots=True)
class Request:
    """What to build.

    Attributes:
        compute: compute capabilities such as `8.6`, or `portable`; () takes that of the GPU here, else
            `portable`.
        profiles: several sets of ranges, each an optimisation profile; () takes the package's, else one.
        ranges: hold in every profile, instead of what stands there.
        seconds: the build is stopped after so many.
        force: build although the cache has it.
        bodies: what stands for edgetx's operators; "" leaves it to the runtime.
        device: the index of the GPU, for a runtime that builds on one.
    """

    compute: Sequence[str] = ()
    profiles: Sequence[Ranges] = ()
    ranges: Ranges = field(default_factory=dict)
    seconds: float = SECONDS
    force: bool = False
    bodies: str = ""
    device: int = 0


def parse_range(text: str) -> tuple[str, Range]:
    """`height=64:256:512` (smallest, best, largest) or `height=256`.

    Raises:
        InputError: another form, or sizes that do not ascend.
    """
    match = _RANGE.fullmatch(text.replace(" ", ""))
    if match is None:
        raise InputError(
            f"cannot read the range {text!r}; expected SYMBOL=MIN:BEST:MAX or SYMBOL=SIZE, for example "
            "height=64:256:512"
        )
    low = int(match[2])
    return match[1], Range(low, int(match[3] or low), int(match[4] or low))


def show_ranges(profiles: Sequence[Ranges]) -> str:
    """`batch 1:1:8, height 64:256:512`; profiles are parted by `|`."""
    return (
        " | ".join(
            ", ".join(f"{name} {each.min}:{each.opt}:{each.max}" for name, each in sorted(ranges.items()))
            for ranges in profiles
        )
        or "fixed shapes"
    )


def choose(package: Package, request: Request) -> tuple[dict[str, Range], ...]:
    """The optimisation profiles for the inputs of `package`, which may be a stage; () if no shape varies.

    Of a symbol, `request` is heard first, then the shape profiles of the package. Else the smallest size is
    the smallest that the model takes, the best is the first golden input's, and the largest is
    `LARGEST_BATCH` or `LARGEST_GROWTH` times the best, no more than the model takes.

    Raises:
        InputError: an unknown symbol, a range that the model does not take, or nothing to go by.
    """
    io = package.io
    symbols = list(dict.fromkeys(dim for spec in io.inputs for dim in spec.shape if isinstance(dim, str)))
    for ranges in (*request.profiles, request.ranges):
        for name, wanted in ranges.items():
            if name not in symbols:
                raise InputError(
                    f"{package.name} has no symbol {name!r}; its inputs have {', '.join(symbols) or 'none'}"
                )
            _refuse(name, wanted, io.symbols.get(name, SymbolRange()))
    if not symbols:
        return ()
    whole = package if not package.is_stage else type(package).open(package.path, check=False)
    given = request.profiles or [profile.ranges for profile in whole.profiles] or [{}]
    usual: dict[str, Range] = {}
    missing = []
    sizes = _golden_sizes(whole)
    for name in symbols:
        if name in sizes:
            usual[name] = _usual(name, sizes[name], io.symbols.get(name, SymbolRange()))
        elif name not in request.ranges and any(name not in ranges for ranges in given):
            missing.append(name)
    if missing:
        raise InputError(
            f"nothing says which sizes {', '.join(missing)} of {package.name} take; give them with --range "
            f"{missing[0]}=MIN:BEST:MAX, or make profiles of real data: edgetx profile-data DATA --package "
            f"{package.path}"
        )
    chosen = []
    for ranges in given:
        merged = {**usual, **{name: each for name, each in ranges.items() if name in symbols}}
        each = {name: {**merged, **request.ranges}[name] for name in symbols}
        if each not in chosen:
            chosen.append(each)
    return tuple(chosen)


def _golden_sizes(package: Package) -> dict[str, int]:
    if GOLDEN not in package.manifest.files:
        return {}
    inputs = package.golden()[0].inputs
    return {
        dim: size
        for spec in package.io.inputs
        for dim, size in zip(spec.shape, inputs[spec.name].shape, strict=True)
        if isinstance(dim, str)
    }


def _usual(name: str, size: int, allowed: SymbolRange) -> Range:
    largest = max(LARGEST_BATCH, size) if name == "batch" else LARGEST_GROWTH * size
    if allowed.max is not None:
        largest = min(largest, allowed.max)
    smallest = -(-allowed.min // allowed.step) * allowed.step
    return Range(min(smallest, size), size, max(size, largest // allowed.step * allowed.step))


def _refuse(name: str, wanted: Range, allowed: SymbolRange) -> None:
    for size in (wanted.min, wanted.opt, wanted.max):
        if (reason := allowed.why_not(size)) is not None:
            raise InputError(f"range {name}={wanted.min}:{wanted.opt}:{wanted.max}: {reason}")
