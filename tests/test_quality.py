"""PSNR, SSIM and luma against scikit-image."""

import math

import numpy as np
import pytest

from edgetx import quality


def planes(*shape, seed=0, noise=0.05):
    generator = np.random.default_rng(seed)
    reference = generator.uniform(0, 1, shape)
    return reference, np.clip(reference + noise * generator.normal(size=shape), 0, 1)


@pytest.fixture
def metrics():
    return pytest.importorskip("skimage.metrics", reason="the reference is scikit-image")


@pytest.mark.parametrize("shape", [(11, 11), (12, 31), (64, 48)])
@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_against_scikit_image(metrics, shape, data_range):
    reference, actual = (data_range * plane for plane in planes(*shape))
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = metrics.structural_similarity(reference, actual, data_range=data_range, **settings)
    assert quality.ssim(reference, actual, data_range=data_range) == pytest.approx(expected, abs=1e-9)
    expected = metrics.peak_signal_noise_ratio(reference, actual, data_range=data_range)
    assert quality.psnr(reference, actual, data_range=data_range) == pytest.approx(expected, abs=1e-9)


def test_planes_are_averaged():
    reference, actual = planes(2, 3, 16, 20)
    each = [quality.ssim(reference[n, c], actual[n, c], data_range=1.0) for n in range(2) for c in range(3)]
    assert quality.ssim(reference, actual, data_range=1.0) == pytest.approx(np.mean(each))


def test_half_precision_is_widened_first():
    reference = np.full((16, 16), 60000, np.float16)
    assert quality.psnr(reference, reference, data_range=1.0) == math.inf
    assert quality.ssim(reference, reference, data_range=1.0) == pytest.approx(1.0)


def test_equal_unequal_and_broken():
    reference, _ = planes(16, 16)
    assert quality.psnr(reference, reference, data_range=1.0) == math.inf
    assert quality.ssim(reference, reference, data_range=1.0) == pytest.approx(1.0)
    broken = reference.copy()
    broken[0, 0] = math.nan
    assert math.isnan(quality.psnr(reference, broken, data_range=1.0))
    broken[0, 0] = math.inf
    assert quality.psnr(reference, broken, data_range=1.0) == -math.inf


@pytest.mark.parametrize("shape", [(10, 64), (64, 10), (1, 1), (0, 16, 16), (0, 0)])
def test_smaller_than_the_window(shape):
    reference = np.zeros(shape)
    assert quality.ssim(reference, reference, data_range=1.0) is None
    assert not reference.size or quality.psnr(reference, reference, data_range=1.0) == math.inf
    assert reference.size or math.isnan(quality.psnr(reference, reference, data_range=1.0))


def test_luma(metrics):
    from skimage.color import rgb2ycbcr

    rgb = np.random.default_rng(0).integers(0, 256, (3, 9, 7), np.uint8)
    np.testing.assert_allclose(quality.luma(rgb), rgb2ycbcr(rgb.transpose(1, 2, 0))[..., 0], atol=1e-9)
    extremes = quality.luma(np.array([0, 255]).reshape(1, 1, 2).repeat(3, 0))
    np.testing.assert_allclose(extremes, [[16, 235]])


@pytest.mark.parametrize(("pixels", "left"), [(0, (3, 5, 8)), (2, (3, 1, 4)), (3, (3, 0, 2)), (9, (3, 0, 0))])
def test_without_border(pixels, left):
    assert quality.without_border(np.zeros((3, 5, 8)), pixels).shape == left
