"""A model that takes regions, on the command line: with a mask file, without one, and with a wrong one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
image = pytest.importorskip("PIL.Image")

import torch  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import edgetx  # noqa: E402
from edgetx.cli import app  # noqa: E402
from edgetx.exporters.rat import rat  # noqa: E402
from edgetx.processors.regions import region_map  # noqa: E402

HEIGHT, WIDTH = 37, 50
LABELS = np.repeat([[7, 200]], HEIGHT, axis=0).repeat(WIDTH // 2, axis=1).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photograph: Path) -> Path:
    """A tiny RAT as `rat.edgetx`, a part of a photograph and a mask of two regions for it."""
    made = tmp_path_factory.mktemp("regions")
    torch.manual_seed(0)
    model = rat(channels=3, width=8, blocks=1, layers=1, encoders=(1,), decoders=(1,))
    edgetx.export(model, output=made / "rat.edgetx")
    with image.open(photograph) as picture:
        picture.convert("RGB").crop((120, 60, 120 + WIDTH, 60 + HEIGHT)).save(made / "photo.png")
    image.fromarray(LABELS).save(made / "mask.png")
    return made


def run(folder: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["run", str(folder / "rat.edgetx"), *arguments])


def expected(folder: Path, mask: Path | None) -> np.ndarray:
    pixels = np.asarray(image.open(folder / "photo.png"))
    regions = region_map(pixels, None if mask is None else str(mask))
    planes = np.ascontiguousarray(pixels.astype(np.float32).transpose(2, 0, 1)[None] / np.float32(255))
    with edgetx.load(folder / "rat.edgetx") as session:
        restored = session.run({"image": planes, "regions": regions[None]})["restored"][0]
    return np.rint(restored.clip(0, 1) * 255).transpose(1, 2, 0)


@pytest.mark.parametrize("masked", [True, False], ids=["mask", "segmented"])
def test_regions_of_a_mask_or_of_the_picture(folder: Path, tmp_path: Path, masked: bool) -> None:
    mask = folder / "mask.png" if masked else None
    options = ["--mask", str(mask)] if masked else []
    result = run(folder, str(folder / "photo.png"), *options, "-o", str(tmp_path / "out.png"))
    assert result.exit_code == 0, result.output
    restored = np.asarray(image.open(tmp_path / "out.png")).astype(int)
    # Pixels are divided or multiplied by 255: one rounding more or less.
    assert np.abs(restored - expected(folder, mask)).max() <= 1


def test_the_regions_matter(folder: Path) -> None:
    assert np.abs(expected(folder, folder / "mask.png") - expected(folder, None)).max() > 1


def test_a_mask_of_another_size_is_refused_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    image.fromarray(LABELS[:, 1:]).save(tmp_path / "narrow.png")
    shutil.copy(folder / "photo.png", tmp_path / "out.png")
    before = (tmp_path / "out.png").read_bytes()
    arguments = ("--mask", str(tmp_path / "narrow.png"), "-o", str(tmp_path / "out.png"), "--force")
    result = run(folder, str(folder / "photo.png"), *arguments)
    assert result.exit_code != 0
    error = " ".join(result.output.split())
    assert f"is {WIDTH - 1}x{HEIGHT} and the picture {WIDTH}x{HEIGHT}" in error
    assert "give a mask with one value per pixel" in error
    assert (tmp_path / "out.png").read_bytes() == before
