"""Is one measurement slower than another, or is the difference noise?

What is compared are the medians of rounds, not single runs: neighbouring runs resemble each other, so single
runs would pretend to far more evidence than there is, and a median does not follow the outliers that another
process on the machine leaves in a round.

*Interleaved* measurements (the engines of one report) took turns round by round. Whatever happened to the
machine happened to both halves of a pair, so what counts is which half was slower, round by round: the
exact sign test. Rounds in which another process disturbed one half alone are what goes wrong on a real
machine, and each costs the sign test one sign, while it gets one of the largest ranks in Wilcoxon's test:
in a simulation of 30 rounds, of which 10 % were half as slow again on either side, the sign test found a
slowdown of 10 % in 100 % of the tries and Wilcoxon's in 82 %. *Separate* measurements have no pairs; the
Mann-Whitney test compares their rounds' medians, and cannot tell a slower engine from a slower day:
`compare` first makes sure that the machines' states agree.

The interval of the ratio comes from a bootstrap over rounds (pairs of rounds where they are interleaved). A
regression is called when both say so: p below 1 % and a ratio beyond the threshold. How many rounds that
takes depends on the machine's noise, so whoever interleaves goes on until it is `settled`, within reason.
What ends it is where the whole interval lies, on either side, and not a small p, which would come about by
chance if only one looked often enough.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

from edgetx.benchmark.stats import CONFIDENCE, percentile
from edgetx.errors import InputError

ALPHA = 0.01
THRESHOLD = 0.05
RESAMPLES = 2000
ROUNDS = 30
MOST = 5
"""Times as many rounds as planned, at most, until a comparison is settled."""
LEAST_PAIRED = 8
"""Rounds at least: with 7 even equal signs have p = 2 / 2**7, above `ALPHA`."""
LEAST_SEPARATE = 5
"""Rounds per side at least: with 5 and 5 a perfect separation has p = 2 / 252, below `ALPHA`."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """How B compares with A.

    Attributes:
        test: `paired` or `separate`.
        ratio: time of B over time of A: above 1, B is slower.
        interval: of the ratio, 95 % confidence.
        p: of a difference at least as large if there were none, two-sided.
        rounds: of A and of B.
        threshold: how much slower is a regression: 0.05 is 5 %.
    """

    test: str
    ratio: float
    interval: tuple[float, float]
    p: float
    rounds: tuple[int, int]
    threshold: float

    @property
    def significant(self) -> bool:
        """Whether noise alone is no explanation."""
        return self.p < ALPHA

    @property
    def regression(self) -> bool:
        """B is slower, significantly and by more than the threshold."""
        return self.significant and self.ratio > 1 + self.threshold

    @property
    def improvement(self) -> bool:
        """B is faster, significantly and by more than the threshold."""
        return self.significant and self.ratio < 1 / (1 + self.threshold)

    @property
    def settled(self) -> bool:
        """Whether more rounds would hardly change the verdict: the interval crosses neither threshold."""
        (low, high), most = self.interval, 1 + self.threshold
        within = 1 / most < low and high < most
        return within or (self.significant and (low > most or high < 1 / most))

    def verdict(self) -> str:
        """In words."""
        low, high = self.interval
        change = f"{self.ratio - 1:+.1%} ({low - 1:+.1%} to {high - 1:+.1%}), p = {self.p:.2g}"
        if self.regression:
            return f"REGRESSION: B takes {change} time, beyond {self.threshold:.0%}"
        if self.improvement:
            return f"faster: B takes {change} time"
        if self.significant:
            return f"within {self.threshold:.0%}: B takes {change} time"
        return f"no difference that these rounds can tell: {change}"


def paired(
    a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], *, threshold: float = THRESHOLD
) -> Comparison:
    """Compare interleaved rounds.

    Raises:
        InputError: the numbers of rounds differ, or there are too few for the test to tell anything.
    """
    if len(a) != len(b) or len(a) < LEAST_PAIRED:
        raise InputError(
            f"an interleaved comparison takes as many rounds of both, {LEAST_PAIRED} at least; given "
            f"{len(a)} and {len(b)}; measure with --rounds {ROUNDS}"
        )
    logs = [
        math.log(statistics.median(theirs) / statistics.median(ours))
        for ours, theirs in zip(a, b, strict=True)
    ]
    return Comparison(
        test="paired",
        ratio=math.exp(statistics.median(logs)),
        interval=_bootstrap_paired(logs),
        p=sign_test(logs),
        rounds=(len(a), len(b)),
        threshold=threshold,
    )


def separate(
    a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], *, threshold: float = THRESHOLD
) -> Comparison:
    """Compare rounds that were measured at different times.

    Raises:
        InputError: there are too few rounds for the test to tell anything.
    """
    if min(len(a), len(b)) < LEAST_SEPARATE:
        raise InputError(
            f"a comparison takes {LEAST_SEPARATE} rounds of each at least; given {len(a)} and {len(b)}; "
            f"measure with --rounds {2 * LEAST_SEPARATE}"
        )
    ours, theirs = ([statistics.median(each) for each in rounds] for rounds in (a, b))
    return Comparison(
        test="separate",
        ratio=statistics.median(theirs) / statistics.median(ours),
        interval=_bootstrap_separate(ours, theirs),
        p=rank_sum(ours, theirs),
        rounds=(len(a), len(b)),
        threshold=threshold,
    )


def sign_test(differences: Sequence[float]) -> float:
    """The two-sided p of so uneven a split of signs, were both equally likely; zeros are left out."""
    kept = [value for value in differences if value]
    if not kept:
        return 1.0
    positive = sum(value > 0 for value in kept)
    fewer = min(positive, len(kept) - positive)
    return min(
        1.0, 2 * sum(math.comb(len(kept), count) for count in range(fewer + 1)) / float(2 ** len(kept))
    )


def rank_sum(a: Sequence[float], b: Sequence[float]) -> float:
    """The Mann-Whitney test, two-sided: p under all ways to divide the values, counted by rank sums.

    Ties share their mean rank.
    """
    import numpy as np

    ranks = _doubled_ranks([*a, *b])
    total, first = sum(ranks), sum(ranks[: len(a)])
    # ways[n, s]: how many choices of n values have the (doubled) rank sum s
    ways = np.zeros((len(a) + 1, total + 1))
    ways[0, 0] = 1
    for rank in ranks:
        more = np.zeros_like(ways)
        more[1:, rank:] = ways[:-1, :-rank]
        ways += more
    sums = np.arange(total + 1)
    mean = total * len(a) / len(ranks)
    extreme = float(ways[len(a), np.abs(sums - mean) >= abs(first - mean)].sum())
    return min(1.0, extreme / math.comb(len(ranks), len(a)))


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each value, so that the mean ranks of ties are whole numbers."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0] * len(values)
    at = 0
    while at < len(order):
        end = at
        while end + 1 < len(order) and values[order[end + 1]] == values[order[at]]:
            end += 1
        for index in order[at : end + 1]:
            ranks[index] = at + end + 2
        at = end + 1
    return ranks


def _bootstrap_paired(logs: Sequence[float]) -> tuple[float, float]:
    import numpy as np

    random = np.random.default_rng(0)
    drawn = np.asarray(logs)[random.integers(0, len(logs), (RESAMPLES, len(logs)))]
    return _bounds(np.exp(np.median(drawn, axis=1)).tolist())


def _bootstrap_separate(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    import numpy as np

    random = np.random.default_rng(0)
    medians = [
        np.median(np.asarray(each)[random.integers(0, len(each), (RESAMPLES, len(each)))], axis=1)
        for each in (a, b)
    ]
    return _bounds((medians[1] / medians[0]).tolist())


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    ordered, tail = sorted(values), (1 - CONFIDENCE) / 2 * 100
    return percentile(ordered, tail), percentile(ordered, 100 - tail)
