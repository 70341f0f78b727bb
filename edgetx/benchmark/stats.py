"""Statistics of a list of latencies."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

WARMUP_BLOCK = 5
WARMUP_TOLERANCE = 0.05
WARMUP_RULE = (
    f"until the medians of two consecutive blocks of {WARMUP_BLOCK} runs differ by at most "
    f"{WARMUP_TOLERANCE:.0%}"
)

CONFIDENCE = 0.95
RESAMPLES = 1000
BUDGET = 4_000_000
"""Values drawn by one bootstrap at most; more runs get fewer resamples, never under 200."""

_PERCENTS = {"median": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9}


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of `count` latencies, in nanoseconds; `stdev` is the sample's (0 for a single run).

    Attributes:
        p999: the 99.9th percentile.
        intervals: figure -> its 95 % confidence interval, see `intervals`; without those that so few runs
            say nothing about.
        outliers: runs more than 1.5 interquartile ranges above the third quartile (Tukey's fence). They are
            counted here and stay in every figure.
    """

    count: int
    min: float
    median: float
    mean: float
    p90: float
    p95: float
    p99: float
    p999: float
    max: float
    stdev: float
    outliers: int = 0
    intervals: dict[str, tuple[float, float]] = {}

    @classmethod
    def of(cls, values: Sequence[float], *, confidence: bool = False) -> Statistics:
        """Summarise at least one value; percentiles interpolate linearly, as numpy's default does.

        `confidence` adds the intervals, which takes a bootstrap and numpy.
        """
        ordered = sorted(values)
        low, high = percentile(ordered, 25), percentile(ordered, 75)
        fence = high + 1.5 * (high - low)
        return cls(
            count=len(ordered),
            min=ordered[0],
            mean=statistics.fmean(ordered),
            max=ordered[-1],
            stdev=statistics.stdev(ordered) if len(ordered) > 1 else 0.0,
            outliers=sum(value > fence for value in ordered),
            intervals=intervals(values) if confidence else {},
            **{name: percentile(ordered, percent) for name, percent in _PERCENTS.items()},
        )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The `percent`-th percentile of an ascending, non-empty sequence, linearly interpolated."""
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def intervals(values: Sequence[float], *, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % confidence intervals of the median and the high percentiles, in the order of measurement.

    A circular block bootstrap (Politis and Romano 1992) with blocks of `n ** (1/3)` consecutive runs:
    neighbouring latencies resemble each other, and resampling single runs would promise too much. A
    percentile with fewer than 5 runs on its far side gets no interval: its resamples only repeat the
    largest runs seen.
    """
    import numpy as np

    given = np.asarray(values, dtype=np.float64)
    count = len(given)
    known = {name: percent for name, percent in _PERCENTS.items() if count * (100 - percent) >= 499.9}
    if not known:
        return {}
    block = max(1, round(count ** (1 / 3)))
    resamples = max(200, min(RESAMPLES, BUDGET // count))
    random = np.random.default_rng(seed)
    starts = random.integers(0, count, (resamples, -(-count // block), 1))
    rows = ((starts + np.arange(block)) % count).reshape(resamples, -1)[:, :count]
    drawn = np.percentile(given[rows], list(known.values()), axis=1)
    tail = (1 - CONFIDENCE) / 2 * 100
    bounds = np.percentile(drawn, [tail, 100 - tail], axis=1)
    return {name: (float(bounds[0, i]), float(bounds[1, i])) for i, name in enumerate(known)}


def is_stationary(values: Sequence[float]) -> bool:
    """Whether the medians of the last two blocks of `WARMUP_BLOCK` runs differ by at most 5 %."""
    if len(values) < 2 * WARMUP_BLOCK:
        return False
    latest = statistics.median(values[-WARMUP_BLOCK:])
    previous = statistics.median(values[-2 * WARMUP_BLOCK : -WARMUP_BLOCK])
    return abs(latest - previous) <= WARMUP_TOLERANCE * previous


def joined(rounds_ns: Sequence[Sequence[int]]) -> list[int]:
    """The runs of all rounds."""
    return [ns for each in rounds_ns for ns in each]


def part(rounds_ns: Sequence[Sequence[int]], index: int, count: int) -> list[int]:
    """The runs of the `index`-th of `count` inputs, of which every round has equally many."""
    runs: list[int] = []
    for each in rounds_ns:
        size = len(each) // count
        runs += each[index * size : (index + 1) * size]
    return runs
