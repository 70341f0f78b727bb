"""The judge itself: what passes, what fails, and that it can fail."""

import numpy as np
import pytest

from edgetx.verification import ImageOutput, compare, measure


def array(*values, dtype="float32"):
    return np.array(values, dtype)


def test_equal_arrays_pass_with_zero_error():
    difference = measure(array(1, -2, 3), array(1, -2, 3), 1e-5)
    assert difference.passed
    assert (difference.max_abs, difference.max_rel) == (0.0, 0.0)
    assert difference.cosine == pytest.approx(1.0)


@pytest.mark.parametrize("error, passed", [(0.9e-5, True), (1.2e-5, False)])
def test_tolerance_is_absolute_for_values_of_order_one(error, passed):
    reference = np.array([0.5, 1.0], np.float64)
    assert measure(reference, reference + error, 1e-5).passed is passed


def test_tolerance_grows_with_the_largest_reference_value():
    reference = np.array([100.0, 0.0], np.float64)
    assert measure(reference, reference + 9e-4, 1e-5).passed
    assert not measure(reference, reference + 1.1e-3, 1e-5).passed


@pytest.mark.parametrize(
    "actual", [array(1, 2), array(1, float("nan"), 3), array(1, float("inf"), 3), array([1, 2, 3])]
)
def test_other_shapes_nan_and_infinity_fail(actual):
    assert not measure(array(1, 2, 3), actual, 1e-5).passed


def test_integers_must_be_equal():
    assert measure(array(1, 2, dtype="int64"), array(1, 2, dtype="int64"), 1e-5).passed
    assert not measure(array(1, 2, dtype="int64"), array(1, 3, dtype="int64"), 1e-5).passed


def test_the_worst_case_of_an_output_decides():
    good, bad = {"a": array(1.0), "b": array(2.0)}, {"a": array(1.0), "b": array(2.1)}
    verdict = compare([good, good], [good, bad], tolerance=1e-5, ran_on={})
    assert [output.passed for output in verdict.outputs] == [True, False]
    assert not verdict.passed
    assert verdict.max_abs == pytest.approx(0.1, rel=1e-5)


def test_no_outputs_do_not_pass():
    from edgetx.core import Verdict

    assert not Verdict(outputs=(), cases=0, ran_on={}).passed


def test_pictures_have_a_fixed_tolerance_psnr_and_ssim():
    picture = ImageOutput(value_range=255.0, tolerance=255e-4)
    reference = np.random.default_rng(0).uniform(0, 2550, (1, 3, 16, 16))  # far outside the range
    for error, passed in ((0.025, True), (0.026, False)):
        verdict = compare(
            [{"out": reference}] * 2,
            [{"out": reference}, {"out": reference + error}],
            tolerance=1e-5,
            ran_on={},
            images={"out": picture},
        )
        (output,) = verdict.outputs
        assert output.passed is passed
        assert output.tolerance == 255e-4
        assert output.psnr == pytest.approx(20 * np.log10(255 / error))
        assert output.ssim == pytest.approx(1.0)


def test_other_outputs_have_no_psnr():
    values = {"out": array(1.0)}
    (output,) = compare([values], [values], tolerance=1e-5, ran_on={}).outputs
    assert output.psnr is None and output.ssim is None


def test_a_nan_is_the_lowest_psnr_and_other_shapes_have_none():
    good, broken = np.zeros((1, 3, 16, 16)), np.full((1, 3, 16, 16), np.nan)
    images = {"out": ImageOutput(1.0, 1e-4)}
    cases = [{"out": good}] * 2
    verdict = compare(cases, [{"out": broken}, {"out": good}], tolerance=1e-5, ran_on={}, images=images)
    assert np.isnan(verdict.outputs[0].psnr) and not verdict.passed
    small = [{"out": good[..., :8]}] * 2
    verdict = compare(cases, small, tolerance=1e-5, ran_on={}, images=images)
    assert verdict.outputs[0].psnr is None and not verdict.passed
