"""Pictures through a real restoration package: whole, in tiles, within a budget, and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from edgetx import _torchvision

_torchvision.install()
pytest.importorskip("spandrel")

from PIL import Image, ImageCms  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import edgetx  # noqa: E402
from edgetx.cli import app  # noqa: E402
from edgetx.errors import InputError  # noqa: E402
from edgetx.restoration import Restorer, parse_size  # noqa: E402

SOURCE = (
    "spandrel:SwinIR?upscale=2&window_size=8&img_size=16&depths=[2]&embed_dim=16&num_heads=[2]&mlp_ratio=2"
    "&upsampler=pixelshuffledirect"
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return edgetx.export(SOURCE, pretrained=False, output=tmp_path_factory.mktemp("model") / "x2.edgetx").path


def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    from skimage import data

    return Image.fromarray(data.chelsea()).resize((width, height)).convert(mode)


def command(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_whole_picture_is_what_the_session_gives(package: Path) -> None:
    picture = photograph(45, 31)
    restored = edgetx.restore(package, picture)
    feeds = np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / np.float32(255)
    with edgetx.load(package) as session:
        expected = session.run({"image": np.ascontiguousarray(feeds)})["restored"][0]
    expected = np.rint(expected.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    actual = np.asarray(restored.image)
    assert actual.shape == (62, 90, 3)
    # Pixels are divided or multiplied by 255: one rounding more or less.
    assert np.abs(actual.astype(int) - expected).max() <= 1
    report = restored.report
    assert (report.size, report.restored_size, report.tiles) == ((45, 31), (90, 62), 1)
    assert report.seam_psnr is None


@pytest.mark.parametrize("blend", [True, False])
def test_tiles_agree_with_the_whole(package: Path, blend: bool) -> None:
    """Two blocks of windows of 8, the second shifted by 4: 24 pixels of context are all there is."""
    with Restorer(package, tile=96, halo=32, batch=2, blend=blend, check_seams=True) as restorer:
        report = restorer.restore(photograph(200, 130)).report
    assert report.tiles > 4
    assert report.tile == (96, 96)
    assert report.untiled_psnr is not None and report.untiled_psnr > 60
    assert report.seam_psnr is not None and report.seam_psnr > 60


def test_per_module_follows_the_weights_into_the_rewritten_model(package: Path, tmp_path: Path) -> None:
    """The exported model's modules have other names; those with the library's very weights are compared."""
    import onnx_ir as ir

    from edgetx import verification
    from edgetx.capture import save
    from edgetx.package import Package, create

    rows = verification.per_module(package)
    names = [row.name for row in rows]
    assert all(row.passed for row in rows)
    in_order = ["model.conv_first", "model.layers.0.conv", "model.norm", "model.conv_after_body", "model"]
    assert [name for name in names if name in in_order] == in_order

    opened = Package.open(package)
    model = ir.load(opened.model_path)
    bias = model.graph.initializers["module.model.after.bias"]
    bias.const_value = ir.tensor(bias.const_value.numpy() + np.float32(1e-2), name=bias.name)
    with create(tmp_path / "damaged") as draft:
        save(model, draft.model_path)
        draft.save_golden(opened.golden())
        draft.seal(opened.manifest)
        damaged = draft.publish()
    assert not edgetx.verify(damaged).passed
    failed = [row.name for row in verification.per_module(damaged) if not row.passed]
    assert failed[0] == "model.conv_after_body"


def test_a_budget_makes_tiles_and_is_kept(package: Path) -> None:
    with Restorer(package) as restorer:
        idle = restorer.restore(photograph(16, 16)).report.peak_bytes
    if idle is None:
        pytest.skip("this system does not tell a process's memory")
    budget = idle + 100 * 2**20
    with Restorer(package, max_memory=budget) as restorer:
        restored = restorer.restore(photograph(1200, 900))
    assert restored.report.tiles > 1
    assert restored.report.note is not None and "in tiles of" in restored.report.note
    assert restored.report.peak_bytes is not None and restored.report.peak_bytes <= 1.15 * budget


def test_a_budget_that_nothing_fits_names_what_would(package: Path) -> None:
    with (
        Restorer(package, max_memory=2**20) as restorer,
        pytest.raises(InputError, match=r"no tile .* needs about"),
    ):
        restorer.restore(photograph(300, 200))


@pytest.mark.parametrize(
    ("text", "size"),
    [("512M", 512 * 2**20), ("2g", 2**31), ("1.5GiB", 3 * 2**29), ("4096", 4096), ("64 kb", 65536)],
)
def test_memory_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-1M", "0", "5T"])
def test_memory_sizes_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="cannot read the memory size"):
        parse_size(text)


def test_one_picture_with_alpha_profile_and_orientation(package: Path, tmp_path: Path) -> None:
    picture = photograph(20, 12)
    picture.putalpha(Image.linear_gradient("L").resize((20, 12)))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a cat"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture.save(tmp_path / "cat.png", exif=exif, icc_profile=profile)
    result = command("run", package, tmp_path / "cat.png", "-o", tmp_path / "out.png")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "out.png") as out:
        assert out.size == (24, 40)  # turned upright, twice as large
        assert out.mode == "RGBA"
        assert out.info["icc_profile"] == profile
        assert out.getexif().get(0x0112, 1) == 1
        assert out.getexif()[0x010E] == "a cat"


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA"])
def test_other_kinds_of_pictures(mode: str, package: Path, tmp_path: Path) -> None:
    photograph(9, 7, mode).save(tmp_path / "in.png")
    result = command("run", package, tmp_path / "in.png", "-o", tmp_path / "out.png")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "out.png") as out:
        assert out.size == (18, 14)


def test_one_pixel(package: Path, tmp_path: Path) -> None:
    photograph(1, 1).save(tmp_path / "dot.png")
    assert command("run", package, tmp_path / "dot.png").exit_code == 0
    with Image.open(tmp_path / "dot.x2.png") as out:
        assert out.size == (2, 2)


def test_nothing_is_overwritten_without_force(package: Path, tmp_path: Path) -> None:
    photograph(8, 8).save(tmp_path / "in.png")
    (tmp_path / "out.png").write_text("precious")
    arguments = ("run", package, tmp_path / "in.png", "-o", tmp_path / "out.png")
    result = command(*arguments)
    assert result.exit_code == 2
    assert "--force" in result.output
    assert (tmp_path / "out.png").read_text() == "precious"
    assert command(*arguments, "--force").exit_code == 0


def test_a_corrupt_picture_in_a_folder_stops_nothing(package: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.jpg"):
        photograph(10, 8).save(folder / name)
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:100])
    result = command("run", package, folder, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.jpg"]
    rows = json.loads(result.stdout)
    assert [row["input"].rpartition("/")[2] for row in rows if "error" in row] == ["b.png"]
    assert "b.png" in result.stderr


def test_a_glob(package: Path, tmp_path: Path) -> None:
    for name in ("a1.png", "a2.png", "b1.png"):
        photograph(10, 8).save(tmp_path / name)
    assert command("run", package, tmp_path / "a*.png", "-o", tmp_path / "out").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a1.png", "a2.png"]


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"no picture", "is not an image"), (None, "does not exist")]
)
def test_a_single_bad_picture_is_bad_use(
    content: bytes | None, message: str, package: Path, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "in.png").write_bytes(content)
    result = command("run", package, tmp_path / "in.png", "-o", tmp_path / "out.png")
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "out.png").exists()


def test_a_mask_for_a_model_without_regions_is_refused(package: Path, tmp_path: Path) -> None:
    photograph(8, 8).save(tmp_path / "in.png")
    result = command("run", package, tmp_path / "in.png", "--mask", tmp_path / "in.png")
    assert result.exit_code == 2
    assert "takes no regions" in " ".join(result.output.split())


def test_tile_and_budget_together_are_refused(package: Path, tmp_path: Path) -> None:
    photograph(8, 8).save(tmp_path / "in.png")
    result = command("run", package, tmp_path / "in.png", "--tile", "64", "--max-memory", "512M")
    assert result.exit_code == 2
