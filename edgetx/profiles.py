"""Shape profiles from data: the ranges that the sizes of real inputs take, found, chosen and kept to.

A sweep has counts, `{"points": 124668, "pillars": 15035, "groups": 108}`; a `Profile` holds it if every count
is inside its range. `propose` makes profiles from the counts of many sweeps, `pick` chooses one for a sweep,
and `limit` makes a sweep fit that none holds, and says what it left out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from edgetx.errors import EdgetxError, InputError

if TYPE_CHECKING:
    import numpy as np

    from edgetx.core import IOSpec, Processor

Counts = Mapping[str, int]

HEADROOM = 1.2
"""The largest size of a profile is this much above the largest count that was seen."""
SMALLEST = 0.5
"""The smallest size of every profile is this share of the smallest count that was seen in any sweep."""
VALLEY = 0.5
"""Humps are two where the density between them falls below this share of the lower one's peak."""
HUMP_SHARE = 0.05
"""A hump has at least this share of the sweeps, and two of them."""
MOST = 3
"""Profiles that are proposed where nobody says how many."""

_BANDWIDTH = math.log(1.1)
_GRID = 512


@dataclass(frozen=True, slots=True)
class Range:
    """The sizes of one symbol: the smallest, the one to be fastest at, the largest."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 0 <= self.min <= self.opt <= self.max or self.max < 1:
            raise InputError(f"a range takes 0 <= min <= opt <= max and max >= 1; given {self}")

    def why_not(self, size: int) -> str | None:
        """None if `size` is inside, else the reason."""
        if size > self.max:
            return f"{size:,} exceeds {self.max:,} by {size - self.max:,}"
        if size < self.min:
            return f"{size:,} is {self.min - size:,} below {self.min:,}"
        return None

    def __str__(self) -> str:
        return f"{self.min:,} to {self.max:,}, mostly {self.opt:,}"


@dataclass(frozen=True, slots=True)
class Profile:
    """A range per symbol, and the share (0 to 1) of the sweeps it was made from that it holds."""

    ranges: Mapping[str, Range]
    share: float

    def why_not(self, counts: Counts) -> str | None:
        """None if every count that has a range is inside it, else which are not, and by how much."""
        reasons = [
            f"{symbol} {reason}"
            for symbol, allowed in self.ranges.items()
            if symbol in counts and (reason := allowed.why_not(counts[symbol])) is not None
        ]
        return ", ".join(reasons) or None

    @property
    def volume(self) -> float:
        """What profiles are ordered by: the product of the largest sizes."""
        return math.prod(float(allowed.max) for allowed in self.ranges.values())


def pick(profiles: Sequence[Profile], counts: Counts) -> Profile | None:
    """The smallest profile that holds `counts`, or None (`why_none` says why)."""
    holding = [profile for profile in profiles if profile.why_not(counts) is None]
    return min(holding, key=lambda profile: profile.volume, default=None)


def largest(profiles: Sequence[Profile]) -> Profile:
    """The profile with the largest volume.

    Raises:
        InputError: there is no profile.
    """
    if not profiles:
        raise InputError("there are no shape profiles; make some: edgetx profile-data SWEEPS --package PKG")
    return max(profiles, key=lambda profile: profile.volume)


def why_none(profiles: Sequence[Profile], counts: Counts) -> str:
    """What exceeds the largest profile, by how much, and which range would hold it."""
    nearest = largest(profiles)
    return f"{nearest.why_not(counts)} of the largest profile; {_would_hold(nearest, counts)}"


def _would_hold(profile: Profile, counts: Counts) -> str:
    wider = ", ".join(
        f"{symbol} {min(allowed.min, counts[symbol]):,} to {round_up(max(allowed.max, counts[symbol])):,}"
        for symbol, allowed in profile.ranges.items()
        if symbol in counts and allowed.why_not(counts[symbol]) is not None
    )
    return f"a profile of {wider} would hold it: edgetx profile-data with such sweeps"


class Sweep(NamedTuple):
    """A file and its counts."""

    file: str
    counts: dict[str, int]


class Unreadable(NamedTuple):
    """A file that could not be read, and why."""

    file: str
    reason: str


def count(
    files: Iterable[str | os.PathLike[str]],
    processor: Processor,
    io: IOSpec,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[list[Sweep], list[Unreadable]]:
    """The counts of every file that `processor` can read, and the files that it cannot.

    Raises:
        InputError: the processor is not one of point clouds.
    """
    if not hasattr(processor, "counts"):
        raise InputError(
            f"shape profiles come from the counts of sweeps, which the processor {processor.kind} does not "
            "have; give a package or an architecture for point clouds"
        )
    sweeps, unreadable = [], []
    for file in (os.fspath(each) for each in files):
        progress(f"reading {file}")
        try:
            (points,) = processor.preprocess(file, io).values()
            sweeps.append(Sweep(file, processor.counts(points)))
        except EdgetxError as error:
            unreadable.append(Unreadable(file, str(error)))
    return sweeps, unreadable


def propose(counts: Sequence[Counts], *, profiles: int | None = None) -> list[Profile]:
    """Profiles that hold the sweeps with these counts, smallest first.

    A sweep's size is the mean of the logarithms of its counts. Sweeps of different kinds (another sensor,
    another field of view) form humps in the density of sizes: a Gaussian kernel estimate with Silverman's
    bandwidth, at least log 1.1. They are cut at the deepest valley where it falls below `VALLEY` of the lower
    of its two humps and each side has `HUMP_SHARE` of the sweeps; then each part again.

    For each symbol and hump, `opt` is the median, `max` the largest count times `HEADROOM`, and `min` the
    smallest count of *all* sweeps times `SMALLEST`, since a sweep that is small in one count and large in
    another must have a profile too; all are rounded to two digits.

    Args:
        counts: of each sweep; the same symbols in every one.
        profiles: at most so many, deepest valleys first, and as many where no valley is left: then the hump
            that spans the largest factor is cut in its middle. By default one per hump, at most `MOST`.

    Raises:
        InputError: no sweeps, `profiles` below 1, or different symbols.
    """
    import statistics

    if not counts:
        raise InputError("no sweep could be read, so there are no counts to make profiles from")
    if profiles is not None and profiles < 1:
        raise InputError(f"the number of profiles is {profiles}; accepted: 1 or more")
    symbols = list(counts[0])
    if any(set(each) != set(symbols) for each in counts):
        raise InputError(f"every sweep needs the same counts; the first has {', '.join(symbols)}")
    sizes = [statistics.fmean(math.log(max(1, each[symbol])) for symbol in symbols) for each in counts]
    groups = [sorted(range(len(sizes)), key=sizes.__getitem__)]
    least = max(2, math.ceil(HUMP_SHARE * len(sizes)))
    while len(groups) < (MOST if profiles is None else profiles):
        valleys = [(*_valley([sizes[index] for index in group], least), group) for group in groups]
        depth, cut, group = min(valleys)
        if depth >= VALLEY and profiles is not None:
            group = max(groups, key=lambda each: sizes[each[-1]] - sizes[each[0]])
            cut = (sizes[group[0]] + sizes[group[-1]]) / 2
        elif depth >= VALLEY:
            break
        below = sum(sizes[index] <= cut for index in group)
        if below == len(group):  # all are of one size
            break
        at = groups.index(group)
        groups[at : at + 1] = group[:below], group[below:]
    found: list[dict[str, Range]] = []
    for group in groups:
        ranges = {}
        for symbol in symbols:
            low = min(each[symbol] for each in counts)
            inside = [counts[index][symbol] for index in group]
            top = max(found[-1][symbol].max if found else 1, round_up(max(inside) * HEADROOM))
            bottom = _round_down(low * SMALLEST)
            middle = min(max(bottom, _nearest(statistics.median(inside))), top)
            ranges[symbol] = Range(bottom, middle, top)
        found.append(ranges)
    made = [Profile(ranges, 0.0) for ranges in found]
    return [
        Profile(profile.ranges, sum(profile.why_not(each) is None for each in counts) / len(counts))
        for profile in made
    ]


def _valley(sizes: Sequence[float], least: int) -> tuple[float, float]:
    """The deepest valley in the density of ascending sizes with at least `least` of them on each side.

    Returns:
        The density there over that of the lower of the two humps around it (1 where there is no valley), and
        where it is.
    """
    import numpy as np

    values = np.asarray(sizes, np.float64)
    low, high = float(values[0]), float(values[-1])
    quartiles = np.percentile(values, [25, 75])
    spreads = [each for each in (float(values.std()), float(quartiles[1] - quartiles[0]) / 1.34) if each > 0]
    if not spreads:
        return 1.0, high
    bandwidth = max(_BANDWIDTH, 0.9 * min(spreads) * len(values) ** -0.2)
    grid = np.linspace(low, high, _GRID)
    density = np.zeros(_GRID)
    for value in values:
        density += np.exp(-0.5 * ((grid - value) / bandwidth) ** 2)
    sides = np.minimum(np.maximum.accumulate(density), np.maximum.accumulate(density[::-1])[::-1])
    below = np.searchsorted(values, grid, side="right")
    ratio = np.where((below >= least) & (len(values) - below >= least), density / sides, 1.0)
    at = int(ratio.argmin())
    return float(ratio[at]), float(grid[at])


def round_up(number: float) -> int:
    """The next number with two digits and zeros: 16,421 -> 17,000."""
    step = _step(number)
    return math.ceil(round(number / step, 9)) * step


def _round_down(number: float) -> int:
    step = _step(number)
    return math.floor(round(number / step, 9)) * step


def _nearest(number: float) -> int:
    step = _step(number)
    return round(number / step) * step


def _step(number: float) -> int:
    return int(10 ** max(0, math.floor(math.log10(number)) - 1)) if number >= 1 else 1


class Counting(Protocol):
    """A processor of point clouds, as far as it is needed here."""

    def counts(self, points: Any) -> dict[str, int]:
        """The size that each symbol takes on these points."""


class Limited(NamedTuple):
    """The points that are left, how many were left out, and the line that says so.

    The message is None where a profile holds all points; where the sweep is smaller than every profile,
    nothing is left out and the message says that.
    """

    points: np.ndarray[Any, Any]
    left_out: int
    message: str | None


def limit(points: np.ndarray[Any, Any], processor: Counting, profiles: Sequence[Profile]) -> Limited:
    """Leave out the points farthest from the sensor until a profile holds the rest.

    As few are left out as the largest profile needs; the others keep their order. Counts grow with every
    point that is added, so the number that fits is found by halving.

    Args:
        points: `[P, columns]`, x, y, z in m first, the sensor at the origin.
        processor: `counts(points)` says what the model will see.
        profiles: of the package.

    Raises:
        InputError: there are no profiles.
    """
    import numpy as np

    counts = processor.counts(points)
    if pick(profiles, counts) is not None:
        return Limited(points, 0, None)
    target = largest(profiles)
    tops = {symbol: allowed.max for symbol, allowed in target.ranges.items()}
    distances = np.sqrt(np.square(points[:, :3].astype(np.float64)).sum(1))
    # Points that are not finite sort behind all others; the processor drops them anyway.
    order = np.argsort(np.where(np.isfinite(distances), distances, np.inf), kind="stable")

    def fits(number: int) -> bool:
        rest = processor.counts(points[order[:number]])
        return all(rest[symbol] <= top for symbol, top in tops.items() if symbol in rest)

    low, high = 0, len(points)
    if fits(high):  # it is too small for every profile
        return Limited(points, 0, why_none(profiles, counts))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    kept = points[np.sort(order[:low])]
    rest = processor.counts(kept)
    left_out = counts["points"] - rest["points"]
    reason = ", ".join(
        f"{symbol} {allowed.why_not(counts[symbol])}"
        for symbol, allowed in target.ranges.items()
        if symbol in counts and counts[symbol] > allowed.max
    )
    return Limited(
        kept,
        left_out,
        f"left out {left_out:,} of {counts['points']:,} points, those beyond {distances[order[low]]:.1f} m: "
        f"{reason} of the largest profile; {_would_hold(target, counts)}",
    )
