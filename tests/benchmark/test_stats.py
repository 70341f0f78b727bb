import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetx.benchmark.stats import Statistics, is_stationary


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
