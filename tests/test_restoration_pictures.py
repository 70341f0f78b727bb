"""Kinds of pictures and machines, through packages whose answer is known: each pixel becomes 2 x 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
Image = pytest.importorskip("PIL.Image")

from onnx import TensorProto, helper  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import edgetx  # noqa: E402
from edgetx.cli import app  # noqa: E402
from edgetx.core import IOSpec, SymbolRange, TensorSpec  # noqa: E402
from edgetx.errors import InputError  # noqa: E402
from edgetx.package import Case, create  # noqa: E402
from edgetx.processors import ImageRestoration, to_dict  # noqa: E402
from edgetx.restoration import Restorer, memory  # noqa: E402
from tests.manifests import manifest  # noqa: E402

RANDOM = np.random.default_rng(0)


@pytest.fixture
def doubler(tmp_path: Path) -> Any:
    """Makes packages that repeat each pixel 2 x 2, of any number of channels and range of values."""

    def make(channels: int = 3, value_range: float = 1.0) -> Path:
        io = IOSpec(
            inputs=(TensorSpec("image", "float32", ("batch", channels, "height", "width")),),
            outputs=(TensorSpec("restored", "float32", ("batch", channels, "rows", "columns")),),
            symbols={name: SymbolRange() for name in ("batch", "height", "width")},
        )
        # Anything above white would be clamped, were the range of values not the model's.
        nodes = [
            helper.make_node("Clip", ["image", "black", "white"], ["clipped"]),
            helper.make_node(
                "Resize", ["clipped", "", "scales"], ["restored"], mode="nearest", nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
            ),
        ]  # fmt: skip
        values = [
            [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape) for spec in specs]
            for specs in (io.inputs, io.outputs)
        ]
        constants = [
            helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2]),
            helper.make_tensor("black", TensorProto.FLOAT, [], [0]),
            helper.make_tensor("white", TensorProto.FLOAT, [], [value_range]),
        ]
        model = helper.make_model(
            helper.make_graph(nodes, "doubler", *values, constants),
            opset_imports=[helper.make_opsetid("", 20)],
            ir_version=10,
        )
        image = RANDOM.uniform(0, value_range, (1, channels, 8, 8)).astype(np.float32)
        processor = ImageRestoration(
            scale=2, channels=channels, out_channels=channels, value_range=value_range, halo=8
        )
        with create(tmp_path / f"x2_{channels}_{value_range:g}") as draft:
            onnx.save(model, draft.model_path)
            draft.save_golden([Case({"image": image}, {"restored": image.repeat(2, 2).repeat(2, 3)})])
            draft.seal(manifest("doubler", io, processor=to_dict(processor)))
            return draft.publish().path

    return make


def picture(height: int, width: int, channels: int = 3) -> np.ndarray[Any, Any]:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return RANDOM.integers(0, 256, shape, np.uint8)


def doubled(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return pixels.repeat(2, 0).repeat(2, 1)


def restored(package: Path, image: Any, **settings: Any) -> Any:
    return edgetx.restore(package, image, **settings).image


def command(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# --- channels and ranges ----------------------------------------------------------------------------


@pytest.mark.parametrize("value_range", [1.0, 255.0])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_white_is_what_the_package_says(channels: int, value_range: float, doubler: Any) -> None:
    pixels = picture(7, 5, channels)
    image = restored(doubler(channels, value_range), Image.fromarray(pixels))
    np.testing.assert_array_equal(np.asarray(image), doubled(pixels))


def test_a_grey_model_takes_the_luma_of_colours_and_keeps_alpha(doubler: Any) -> None:
    image = Image.fromarray(picture(7, 5, 4))
    out = restored(doubler(channels=1), image)
    assert out.mode == "LA"
    luma = np.asarray(image.convert("RGB").convert("L")).astype(int)
    assert np.abs(np.asarray(out.getchannel("L")).astype(int) - doubled(luma)).max() <= 1
    assert out.getchannel("A").size == out.size


def test_a_model_of_four_channels_gets_alpha_or_an_opaque_one(doubler: Any) -> None:
    package = doubler(channels=4)
    pixels = picture(7, 5, 4)
    np.testing.assert_array_equal(np.asarray(restored(package, Image.fromarray(pixels))), doubled(pixels))
    opaque = restored(package, Image.fromarray(pixels[..., :3].copy()))
    assert opaque.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(opaque.convert("RGB")), doubled(pixels[..., :3]))
    assert opaque.getchannel("A").getextrema() == (255, 255)


def test_16_bit_grey_keeps_its_range(doubler: Any) -> None:
    deep = RANDOM.integers(0, 65536, (6, 9), np.uint16)
    out = np.asarray(restored(doubler(), Image.fromarray(deep)))
    np.testing.assert_array_equal(out, doubled(np.rint(deep / 257).astype(np.uint8)))


# --- sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int], doubler: Any) -> None:
    with pytest.raises(InputError, match="no pixels"):
        restored(doubler(), Image.new("RGB", size))


def test_a_file_without_pixels_is_named_and_the_rest_is_done(doubler: Any, tmp_path: Path) -> None:
    folder, package = tmp_path / "in", doubler()
    folder.mkdir()
    for name in ("a.png", "c.png"):
        Image.fromarray(picture(4, 3)).save(folder / name)
    (folder / "b.ppm").write_bytes(b"P6\n0 0\n255\n")
    result = command("run", package, folder, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    (failed,) = [row for row in json.loads(result.stdout) if "error" in row]
    assert failed["input"].endswith("b.ppm")
    assert command("run", package, folder / "b.ppm").exit_code == 2


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_one_pixel(channels: int, doubler: Any) -> None:
    pixels = picture(1, 1, channels)
    np.testing.assert_array_equal(
        np.asarray(restored(doubler(channels), Image.fromarray(pixels))), doubled(pixels)
    )


def test_a_picture_larger_than_the_memory_runs_in_tiles(
    doubler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that has little left, without a word of the user's."""
    pixels = picture(900, 1100)
    with Restorer(doubler()) as restorer:
        if memory.why_not(restorer._target) is not None:
            pytest.skip("this system does not tell a process's memory")
        whole = restorer.restore(Image.fromarray(pixels)).report
        assert whole.tiles == 1 and whole.note is None
        monkeypatch.setattr(memory, "available", lambda: 120 * 2**20)
        small = restorer.restore(Image.fromarray(pixels))
    assert small.report.tiles > 1
    assert small.report.note is not None and "whole it would take more than" in small.report.note
    np.testing.assert_array_equal(np.asarray(small.image), doubled(pixels))


# --- where it is written ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "several", "message"),
    [
        ("out.bmp", False, "accepted: .png, .jpg"),
        ("out.png", True, "names one picture, and 2 need a folder"),
        ("file.txt/out.png", False, "cannot write"),
    ],
)
def test_outputs_that_cannot_be(name: str, several: bool, message: str, doubler: Any, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("precious")
    inputs = [tmp_path / "a.png", tmp_path / "b.png"][: 1 + several]
    for path in inputs:
        Image.fromarray(picture(4, 3)).save(path)
    before = sorted(tmp_path.rglob("*"))
    package = doubler()
    result = command("run", package, *inputs, "-o", tmp_path / name)
    assert result.exit_code == 2
    assert message in result.stderr
    assert [path for path in sorted(tmp_path.rglob("*")) if package not in (path, *path.parents)] == before


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
from edgetx.cli import app
app(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX's")
def test_a_full_disk_leaves_what_was_there(doubler: Any, tmp_path: Path) -> None:
    """A process that may write no large file meets the same error as on a full disk."""
    Image.fromarray(picture(100, 100)).save(tmp_path / "in.png")
    (tmp_path / "out.png").write_text("precious")
    package = doubler()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "run", package, tmp_path / "in.png", "-o", tmp_path / "out.png",
         "--force"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr and "with space" in done.stderr
    assert (tmp_path / "out.png").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["in.png", "out.png"]
