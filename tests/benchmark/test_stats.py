import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetx.benchmark.stats import Statistics, intervals, is_stationary


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=50))
def test_summary_agrees_with_numpy(values):
    summary = Statistics.of(values)
    assert summary.count == len(values)
    assert (summary.min, summary.max) == (min(values), max(values))
    for percent, ours in ((50, summary.median), (90, summary.p90), (99, summary.p99)):
        assert ours == pytest.approx(np.percentile(values, percent))
    assert summary.mean == pytest.approx(np.mean(values))
    assert summary.stdev == pytest.approx(
        np.std(values, ddof=1) if len(values) > 1 else 0.0, rel=1e-6, abs=1e-6
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], False),
        ([100] * 9, False),
        ([100] * 10, True),
        ([200] * 5 + [100] * 5, False),
        ([900] * 7 + [100] * 5 + [104] * 5, True),
        ([100] * 5 + [100, 100, 100, 900, 900], True),
    ],
)
def test_warm_up_ends_when_two_blocks_agree(values, expected):
    assert is_stationary(values) is expected


@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=80))
def test_percentiles_and_outliers(values):
    summary = Statistics.of(values)
    for percent, ours in ((95, summary.p95), (99.9, summary.p999)):
        assert ours == pytest.approx(np.percentile(values, percent))
    low, high = np.percentile(values, [25, 75])
    assert summary.outliers == sum(value > high + 1.5 * (high - low) for value in values)


def test_intervals_hold_the_truth_as_often_as_they_say():
    random = np.random.default_rng(1)
    held = {"median": 0, "p90": 0}
    for _ in range(60):
        found = intervals(random.exponential(1.0, 200))
        held["median"] += found["median"][0] <= np.log(2) <= found["median"][1]
        held["p90"] += found["p90"][0] <= np.log(10) <= found["p90"][1]
    # 95 % of 60, less five standard errors.
    assert all(count >= 60 * 0.95 - 5 * np.sqrt(60 * 0.95 * 0.05) for count in held.values())


def test_neighbouring_runs_that_resemble_each_other_widen_the_interval():
    random = np.random.default_rng(2)
    level = 100 + np.repeat(random.normal(0, 5, 40), 25)
    values = level + random.normal(0, 1, 1000)
    low, high = intervals(values)["median"]
    shuffled_low, shuffled_high = intervals(random.permutation(values))["median"]
    assert high - low > 1.5 * (shuffled_high - shuffled_low)


def test_percentiles_beyond_the_runs_have_no_interval():
    assert set(intervals(range(1, 60))) == {"median", "p90"}
    assert set(intervals(range(1, 5001))) == {"median", "p90", "p95", "p99", "p999"}
    assert intervals([1.0, 2.0]) == {}
    assert intervals(range(1, 60)) == intervals(range(1, 60))
