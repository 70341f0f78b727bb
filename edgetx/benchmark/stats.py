"""Statistics of a list of latencies."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

WARMUP_BLOCK = 5
WARMUP_TOLERANCE = 0.05


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of `count` latencies, in nanoseconds; `stdev` is the sample's (0 for a single run)."""

    count: int
    min: float
    median: float
    mean: float
    p90: float
    p99: float
    max: float
    stdev: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistics:
        """Summarise at least one value; percentiles interpolate linearly, as numpy's default does."""
        ordered = sorted(values)
        return cls(
            count=len(ordered),
            min=ordered[0],
            median=percentile(ordered, 50),
            mean=statistics.fmean(ordered),
            p90=percentile(ordered, 90),
            p99=percentile(ordered, 99),
            max=ordered[-1],
            stdev=statistics.stdev(ordered) if len(ordered) > 1 else 0.0,
        )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The `percent`-th percentile of an ascending, non-empty sequence, linearly interpolated."""
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def is_stationary(values: Sequence[float]) -> bool:
    """Whether the medians of the last two blocks of `WARMUP_BLOCK` runs differ by at most 5 %."""
    if len(values) < 2 * WARMUP_BLOCK:
        return False
    latest = statistics.median(values[-WARMUP_BLOCK:])
    previous = statistics.median(values[-2 * WARMUP_BLOCK : -WARMUP_BLOCK])
    return abs(latest - previous) <= WARMUP_TOLERANCE * previous
