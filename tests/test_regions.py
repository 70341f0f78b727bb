"""Region maps from masks and from pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgetx.errors import InputError
from edgetx.processors.regions import MOST_PIXELS, MOST_REGIONS, region_map

PICTURE = np.zeros((4, 6, 3), np.uint8)
LABELS = np.array([[3, 3, 3, 9, 9, 9]] * 3 + [[250] * 6])
NUMBERED = np.array([[0, 0, 0, 1, 1, 1]] * 3 + [[2] * 6])


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (LABELS.astype(np.uint8), "mask.png"),
        (LABELS.astype(np.uint16) * 200, "mask.png"),
        (LABELS.astype(np.int32) * 70_000, "mask.tif"),
    ],
)
def test_mask_image(labels: np.ndarray, name: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(labels).save(tmp_path / name)
    regions = region_map(PICTURE, str(tmp_path / name))
    assert regions.dtype == np.int32
    np.testing.assert_array_equal(regions, NUMBERED)


def test_mask_palette_counts_by_index(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    mask = image.fromarray(NUMBERED.astype(np.uint8))
    mask.putpalette([0, 0, 0, 255, 255, 255, 0, 0, 0])
    mask.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(region_map(PICTURE, str(tmp_path / "mask.png")), NUMBERED)


@pytest.mark.parametrize("values", [LABELS, LABELS * 1e10, LABELS * 10**15, -LABELS[::-1, ::-1]])
def test_mask_array(values: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", values)
    regions = region_map(PICTURE, str(tmp_path / "mask.npy"))
    assert regions.dtype == np.int32
    np.testing.assert_array_equal(
        regions == regions[:, :1], values == values[:, :1], err_msg="not the same partition"
    )
    assert sorted(np.unique(regions)) == [0, 1, 2]


def test_bad_masks_are_refused_in_one_line(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.zeros((6, 4), np.uint8)).save(tmp_path / "turned.png")
    image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "colour.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "colour.png").read_bytes()[:40])
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "turned.npy", np.zeros((6, 4), np.int32))
    np.save(tmp_path / "deep.npy", np.zeros((4, 6, 1), np.int32))
    np.save(tmp_path / "nan.npy", np.full((4, 6), np.nan))
    np.save(tmp_path / "objects.npy", np.array([[None] * 6] * 4), allow_pickle=True)
    for name, message in {
        "turned.png": "is 4x6 and the picture 6x4",
        "turned.npy": "is 4x6 and the picture 6x4",
        "colour.png": "colours RGB; give a grey PNG",
        "broken.png": "cannot be read",
        "broken.npy": "cannot be read",
        "deep.npy": "give one region number per pixel",
        "nan.npy": "holds NaN",
        "objects.npy": "cannot be read",
        "missing.png": "cannot be read",
        "missing.npy": "cannot be read",
    }.items():
        with pytest.raises(InputError, match=message) as error:
            region_map(PICTURE, str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_segments_by_colour() -> None:
    picture = np.full((64, 96, 3), 40, np.uint8)
    picture[:, 41:] = 200
    regions = region_map(picture)
    assert not set(regions[:, :38].ravel()) & set(regions[:, 44:].ravel())
    assert len(np.unique(regions)) > 2
    np.testing.assert_array_equal(regions, region_map(picture.astype(np.uint16) * 257))


def test_segments_a_photograph(photograph: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    picture = np.asarray(image.open(photograph).convert("RGB"))
    regions = region_map(picture)
    assert regions.shape == picture.shape[:2] and regions.dtype == np.int32
    sizes = np.bincount(regions.ravel())
    assert 100 < len(sizes) <= MOST_REGIONS and sizes.min() > 0 and sizes.max() < regions.size / 20
    np.testing.assert_array_equal(regions, region_map(picture))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (53, 3), (40, 1, 1), (17, 31, 4)])
def test_any_size(shape: tuple[int, ...]) -> None:
    regions = region_map(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8))
    assert regions.shape == shape[:2] and regions.min() == 0


def test_a_large_picture_is_segmented_coarsely() -> None:
    picture = np.zeros((1501, MOST_PIXELS // 1000), np.uint8)
    regions = region_map(picture)
    assert regions.shape == picture.shape and len(np.unique(regions)) <= MOST_REGIONS
    np.testing.assert_array_equal(regions[0:-1:2], regions[1::2])


def test_an_empty_picture_is_refused() -> None:
    with pytest.raises(InputError, match="at least one pixel"):
        region_map(np.zeros((0, 5, 3), np.uint8))
