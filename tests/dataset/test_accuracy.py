"""Accuracy of a package and of its PyTorch model, one picture at a time."""

import sys

import numpy as np
import pytest
from PIL import Image

from edgetx.core import Target
from edgetx.dataset import evaluate
from edgetx.dataset.folders import Pair
from edgetx.dataset.restoration import compare
from edgetx.errors import InputError, PackageError

ONE = Target(threads=1)


def test_restoration_measures_as_published(upscaler, pairs):
    """Against scikit-image, on pictures that numpy enlarges."""
    metrics = pytest.importorskip("skimage.metrics", reason="the reference is scikit-image")
    color = pytest.importorskip("skimage.color")
    pytest.importorskip("torch")
    report = evaluate(upscaler(), pairs, target=ONE)
    assert [picture.name for picture in report.pictures] == ["a", "b", "c"]
    assert not report.failed and not report.notes and not report.worse(0.0)
    for picture in report.pictures:
        low = np.asarray(Image.open(pairs / "LR_bicubic" / "X2" / f"{picture.name}x2.png"))
        restored = low.repeat(2, 0).repeat(2, 1)
        high = np.asarray(Image.open(pairs / "HR" / f"{picture.name}.png"))
        got, want = (image[2:-2, 2:-2] for image in (restored, high[: len(restored), : restored.shape[1]]))
        got_y, want_y = (color.rgb2ycbcr(image)[..., 0] for image in (got, want))
        psnr = metrics.peak_signal_noise_ratio(want_y, got_y, data_range=255)
        ssim = metrics.structural_similarity(
            want_y,
            got_y,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert picture.package.psnr == pytest.approx(psnr, abs=1e-4)
        assert picture.package.ssim == pytest.approx(ssim, abs=1e-6)
        assert picture.package.psnr_rgb == pytest.approx(metrics.peak_signal_noise_ratio(want, got))
        assert picture.pytorch == picture.package
        assert picture.difference == 0.0
    mean = np.mean([picture.package.psnr for picture in report.pictures])
    assert report.package.psnr == pytest.approx(mean)
    assert report.difference == 0.0


def test_a_worse_package_is_told_per_picture(upscaler, pairs):
    pytest.importorskip("torch")
    report = evaluate(upscaler(gain=0.9), pairs, target=ONE)
    assert [picture.name for picture in report.worse(0.01)] == ["a", "b", "c"]
    assert not report.worse(50.0)
    assert report.difference < -0.01
    assert all(picture.difference < 0 for picture in report.pictures)


def test_restoration_of_0_to_255(upscaler, pairs):
    pytest.importorskip("torch")
    unit = evaluate(upscaler("unit"), pairs, target=ONE)
    bytes_ = evaluate(upscaler("bytes", value_range=255.0), pairs, target=ONE)
    assert bytes_.pictures == unit.pictures


def test_without_torch_only_the_package(upscaler, pairs, monkeypatch):
    package = upscaler()
    monkeypatch.setitem(sys.modules, "torch", None)
    report = evaluate(package, pairs, target=ONE)
    assert report.package is not None and report.pytorch is None and report.difference is None
    (note,) = report.notes
    assert "not compared with PyTorch" in note and "pip install edgetx[export]" in note


def test_without_its_source_only_the_package(upscaler, pairs):
    pytest.importorskip("torch")
    report = evaluate(upscaler(source="in-memory:Net"), pairs, target=ONE)
    assert report.package is not None and report.pytorch is None
    assert "cannot be loaded again" in report.notes[0]


def test_another_model_at_the_source_is_an_error(upscaler, pairs, tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "models" / "other_models.py").write_text(
        "import torch\ndef build():\n    return torch.nn.Upsample(scale_factor=2, mode='bilinear')\n"
    )
    with pytest.raises(PackageError, match="does not give the package's golden output"):
        evaluate(upscaler(source="other_models:build"), pairs, target=ONE)


def test_a_corrupt_file_in_the_middle(upscaler, pairs):
    (pairs / "LR_bicubic" / "X2" / "bx2.png").write_bytes(b"no picture")
    report = evaluate(upscaler(source="in-memory:Net"), pairs, target=ONE)
    assert [(picture.name, picture.package is None) for picture in report.pictures] == [
        ("a", False),
        ("b", True),
        ("c", False),
    ]
    (failed,) = report.failed
    assert "bx2.png" in failed.error
    assert report.package is not None


def test_a_pair_of_other_sizes(upscaler, pairs):
    Image.new("RGB", (64, 64)).save(pairs / "HR" / "a.png")
    report = evaluate(upscaler(source="in-memory:Net"), pairs, target=ONE)
    assert [picture.name for picture in report.failed] == ["a"]
    assert "a.png is 64x64, but" in report.failed[0].error and "becomes 40x32" in report.failed[0].error


def test_limit_and_progress(upscaler, pairs):
    package, steps = upscaler(source="in-memory:Net"), []
    report = evaluate(package, pairs, target=ONE, limit=2, progress=steps.append)
    assert [picture.name for picture in report.pictures] == ["a", "b"]
    assert "only the first 2 of 3 pictures" in report.notes
    assert steps[1:] == ["picture 1 of 2: a", "picture 2 of 2: b"]
    with pytest.raises(InputError, match="limit"):
        evaluate(package, pairs, limit=0)


def pair(tmp_path):
    return Pair("p", tmp_path / "low.png", tmp_path / "high.png")


def test_equal_pictures_have_infinite_psnr(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 20), np.uint8)
    measured = compare(pixels, pixels, 2, pair(tmp_path))
    assert measured.psnr == measured.psnr_rgb == float("inf")
    assert measured.ssim == pytest.approx(1.0)


def test_small_pictures_have_no_ssim_and_smaller_ones_nothing(tmp_path):
    pixels = np.zeros((3, 12, 12), np.uint8)
    assert compare(pixels, pixels, 2, pair(tmp_path)).ssim is None
    with pytest.raises(InputError, match="no pixels inside the border of 6"):
        compare(pixels, pixels, 6, pair(tmp_path))


def test_scale_one_cuts_nothing_and_grey_is_grey(tmp_path):
    want, got = np.zeros((2, 1, 12, 12), np.uint8)
    got = got.copy()
    got[0, 0, 0] = 255
    measured = compare(got, want, 1, pair(tmp_path))
    assert measured.psnr == pytest.approx(10 * np.log10(144))
    assert measured.psnr_rgb is None


def test_classification(colours, classes):
    pytest.importorskip("torch")
    report = evaluate(colours(), classes, target=ONE)
    assert [item.label for item in report.pictures] == [2, 2, 1, 1, 0, 0]
    assert report.package == report.pytorch
    assert report.package.top1 == pytest.approx(100 * 5 / 6)
    assert report.package.top5 == 100
    assert [item.package.label for item in report.pictures] == [2, 0, 1, 1, 0, 0]
    assert report.pictures[1].package.rank in (2, 3)
    assert not report.worse(0.01) and not report.failed


def test_a_worse_classifier(colours, classes):
    pytest.importorskip("torch")
    report = evaluate(colours(signs=(1.0, -1.0, 1.0)), classes, target=ONE)
    assert report.difference.top1 == pytest.approx(-100 * 2 / 6)
    assert [item.name for item in report.worse(0.01)] == ["Verdant/0.png", "Verdant/1.png"]
    assert not report.worse(40.0)


def test_packages_without_a_task(colours, classes, tmp_path):
    from msgspec.structs import replace

    from edgetx.package import Package, create

    package = Package.open(colours())
    with create(tmp_path / "plain") as draft:
        draft.model_path.write_bytes(package.model_path.read_bytes())
        draft.save_golden(package.golden())
        draft.seal(replace(package.manifest, processor=None, files={}))
        plain = draft.publish()
    with pytest.raises(InputError, match="whose processor is missing; accepted: image-restoration, image-c"):
        evaluate(plain, classes)
