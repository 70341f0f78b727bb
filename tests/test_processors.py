from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgetx import processors
from edgetx.core import IOSpec, Processor, SymbolRange, TensorSpec
from edgetx.errors import InputError
from edgetx.processors import ImageClassification, ImageFeatures, Tensors, load_image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def io(
    rows: int | str = 32, columns: int | str = 32, *, dtype: str = "float32", **symbols: SymbolRange
) -> IOSpec:
    image = TensorSpec("image", dtype, ("batch", 3, rows, columns))
    return IOSpec((image,), (TensorSpec("logits", dtype, ("batch", 4)),), symbols)


def picture(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    waves = 90 + 90 * np.stack([np.sin(x / 7), np.cos(y / 5), np.sin((x + y) / 11)], -1)
    return Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8))


def save(image: Image.Image, path: Path, **options: Any) -> str:
    image.save(path, **options)
    return str(path)


# The transform.


def timm_transform(**settings: Any) -> Any:
    pytest.importorskip("torch")
    try:
        from edgetx._torchvision import install
    except ImportError:
        pytest.skip("torchvision's shim is not there yet")
    install()
    data = pytest.importorskip("timm.data")
    return data.create_transform(**settings, is_training=False, mean=MEAN, std=STD)


@pytest.mark.parametrize("source", [(70, 50), (50, 70), (33, 33), (301, 97), (1, 1), (20, 300)])
@pytest.mark.parametrize(
    ("size", "crop_pct", "interpolation", "crop_mode"),
    [
        ((32, 32), 0.9, "bicubic", "center"),
        ((32, 32), 0.875, "bilinear", "center"),
        ((32, 32), 1.0, "bicubic", "center"),
        ((31, 31), 0.95, "lanczos", "center"),
        ((32, 48), 0.9, "bicubic", "center"),
        ((48, 32), 1.0, "nearest", "center"),
        ((32, 32), 1.0, "bicubic", "squash"),
        ((32, 48), 0.9, "bilinear", "squash"),
    ],
)
def test_equals_timm_bit_for_bit(
    tmp_path: Path,
    source: tuple[int, int],
    size: tuple[int, int],
    crop_pct: float,
    interpolation: str,
    crop_mode: str,
) -> None:
    image = picture(*source)
    transform = timm_transform(
        input_size=(3, *size), crop_pct=crop_pct, interpolation=interpolation, crop_mode=crop_mode
    )
    processor = ImageClassification(size, MEAN, STD, interpolation, crop_pct, crop_mode)
    ours = processor.preprocess(save(image, tmp_path / "x.png"), io(*size))["image"]
    assert ours.flags.c_contiguous
    np.testing.assert_array_equal(ours[0], transform(image).numpy())


def test_resize_size_equals_torchvision(tmp_path: Path) -> None:
    timm_transform(input_size=(3, 32, 32))
    transforms = pytest.importorskip("torchvision.transforms")
    image = picture(71, 53)
    resized = transforms.Compose([transforms.Resize(37), transforms.CenterCrop(32), transforms.ToTensor()])
    expected = transforms.Normalize(MEAN, STD)(resized(image)).numpy()
    processor = ImageClassification((32, 32), MEAN, STD, "bilinear", resize_size=37)
    ours = processor.preprocess(save(image, tmp_path / "x.png"), io())["image"][0]
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_the_tensor_has_the_dtype_of_the_model(tmp_path: Path, dtype: str) -> None:
    path = save(picture(40, 40), tmp_path / "x.png")
    tensor = ImageClassification((32, 32)).preprocess(path, io(dtype=dtype))["image"]
    assert str(tensor.dtype) == dtype


def test_native_size_takes_the_nearest_allowed_size(tmp_path: Path) -> None:
    path = save(picture(75, 50), tmp_path / "x.png")
    processor = ImageFeatures((32, 32), native_size=True)
    spec = io("height", "width", height=SymbolRange(32, None, 32), width=SymbolRange(32, None, 32))
    assert processor.preprocess(path, spec)["image"].shape == (1, 3, 64, 64)
    spec = io("height", "width", height=SymbolRange(64, 128, 7), width=SymbolRange(1, 65, 8))
    assert processor.preprocess(path, spec)["image"].shape == (1, 3, 70, 64)
    assert processor.preprocess(path, io("height", "width"))["image"].shape == (1, 3, 50, 75)
    assert processor.preprocess(path, io())["image"].shape == (1, 3, 32, 32)


# Images of every kind.


def read(path: str) -> Any:
    image = load_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_an_image_of_one_pixel(tmp_path: Path) -> None:
    path = save(Image.new("RGB", (1, 1), (255, 0, 128)), tmp_path / "x.png")
    tensor = ImageClassification((32, 32)).preprocess(path, io())["image"]
    assert tensor.shape == (1, 3, 32, 32)
    assert np.ptp(tensor, axis=(2, 3)).max() == 0


def test_16_bit_grey_is_scaled(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    for name in ("x.png", "x.tif"):
        path = save(Image.fromarray(values), tmp_path / name)
        assert read(path)[0, :, 0].tolist() == [0, 1, 128, 255]
        assert read(path).shape == (1, 4, 3)


def test_grey(tmp_path: Path) -> None:
    path = save(Image.new("L", (2, 2), 77), tmp_path / "x.png")
    assert (read(path) == 77).all()
    assert (read(save(Image.new("1", (2, 2), 1), tmp_path / "bits.png")) == 255).all()


def test_alpha_is_dropped_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(Image.new("RGBA", (2, 2), (10, 20, 30, 0)), tmp_path / "x.png")
    assert read(path)[0, 0].tolist() == [10, 20, 30]
    assert "its transparency is ignored" in caplog.text
    caplog.clear()
    read(save(Image.new("RGBA", (2, 2), (10, 20, 30, 255)), tmp_path / "opaque.png"))
    read(save(Image.new("LA", (2, 2), (10, 255)), tmp_path / "la.png"))
    assert caplog.text == ""


def test_palette_and_cmyk(tmp_path: Path) -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert read(save(red.quantize(4), tmp_path / "x.png"))[0, 0].tolist() == [255, 0, 0]
    cmyk = read(save(red.convert("CMYK"), tmp_path / "x.jpg", quality=100))
    assert np.abs(cmyk[0, 0].astype(int) - [255, 0, 0]).max() < 8


def test_orientation_is_applied(tmp_path: Path) -> None:
    image = picture(6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read(save(image, tmp_path / "x.png", exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(np.asarray(image), -1))


def test_of_an_animation_the_first_frame_is_used_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    for name in ("x.gif", "x.png"):
        caplog.clear()
        path = save(frames[0], tmp_path / name, save_all=True, append_images=frames[1:])
        assert read(path)[0, 0].tolist() == [255, 0, 0]
        assert "has 3 frames; only the first one is used" in caplog.text


@pytest.mark.parametrize(("name", "options"), [("x.png", {}), ("x.jpg", {}), ("x.webp", {}), ("x.tif", {})])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_a_truncated_image(tmp_path: Path, name: str, options: dict[str, Any], keep: float) -> None:
    path = tmp_path / name
    save(picture(64, 64), path, **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(InputError, match=name):
        load_image(path)


def test_a_corrupt_image(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    save(picture(64, 64), path)
    data = bytearray(path.read_bytes())
    data[60:200] = bytes(140)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"x\.png is damaged or incomplete .*; get a fresh copy"):
        load_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\); get a fresh copy"),
        (b"hello", "is not an image that Pillow can read; use a PNG"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "Git LFS pointer; run git lfs pull",
        ),
    ],
)
def test_a_file_that_is_no_image(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_image(tmp_path / "x.png")


def test_no_file_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; give the path of an image file"):
        load_image(tmp_path / "x.png")
    with pytest.raises(InputError, match="is a folder; give the path of an image file"):
        load_image(tmp_path)


def test_values_that_no_image_has(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.array([[0, 70000]], np.int32)), tmp_path / "x.tif")
    with pytest.raises(InputError, match="values from 0 to 70000 in Pillow's mode I"):
        load_image(path)
    path = save(Image.fromarray(np.array([[0.5, 1.5]], np.float32)), tmp_path / "f.tif")
    with pytest.raises(InputError, match="Pillow's mode F; accepted: 8- and 16-bit images"):
        load_image(path)


def test_a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(picture(64, 64), tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=r"x\.png is too large: .*scale it down first"):
        load_image(path)


def test_an_aspect_ratio_that_explodes(tmp_path: Path) -> None:
    path = save(Image.new("RGB", (60000, 1)), tmp_path / "x.png")
    with pytest.raises(InputError, match="is 60000x1; keeping that aspect ratio would need"):
        ImageClassification((224, 224)).preprocess(path, io(224, 224))


def test_without_pillow_the_error_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "from edgetx.processors import load_image\n"
        "try: load_image('x.png')\nexcept Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "UnavailableError reading an image needs Pillow; pip install pillow\n"


# Answers.


def test_top_k() -> None:
    processor = ImageClassification((32, 32), labels=("a", "b", "c", "d"), top_k=2)
    answer = processor.postprocess({"logits": np.array([[0, 2, 1, -1000]], np.float32)})
    assert [entry["label"] for entry in answer] == ["b", "c"]
    assert [entry["index"] for entry in answer] == [1, 2]
    assert answer[0]["probability"] == pytest.approx(np.e**2 / (1 + np.e + np.e**2))
    json.dumps(answer)


def test_top_k_of_fewer_classes_and_without_labels() -> None:
    answer = ImageClassification((32, 32)).postprocess({"logits": np.array([[3e4, -3e4]], np.float16)})
    assert [(entry["label"], entry["index"], entry["probability"]) for entry in answer] == [
        (None, 0, 1.0),
        (None, 1, 0.0),
    ]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "has no output ''"),
        ({"y": np.zeros((2, 4))}, r"output 'y' has shape \[2, 4\]; expected logits \[1, classes\]"),
        ({"y": np.zeros((1, 5))}, "has 5 classes and the package has 4 labels"),
        ({"y": np.full((1, 4), np.nan)}, "holds NaN"),
    ],
)
def test_outputs_that_cannot_be_classified(outputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageClassification((32, 32), labels=("a", "b", "c", "d")).postprocess(outputs)


def test_features_are_summarised() -> None:
    outputs = {"a": np.array([[1.0, 3.0]], np.float32), "b": np.array([np.nan]), "c": np.zeros((0, 3))}
    a, b, c = ImageFeatures((32, 32)).postprocess(outputs)
    assert a == {
        "output": "a", "dtype": "float32", "shape": [1, 2], "min": 1.0, "max": 3.0, "mean": 2.0, "std": 1.0
    }  # fmt: skip
    assert b["mean"] is None
    assert "mean" not in c
    json.dumps([a, b, c], allow_nan=False)


# Tensors.


def test_npy_and_npz(tmp_path: Path) -> None:
    image = np.ones((1, 3, 32, 32), np.float32)
    np.save(tmp_path / "x.npy", image)
    np.testing.assert_array_equal(Tensors().preprocess(str(tmp_path / "x.npy"), io())["image"], image)
    np.savez(tmp_path / "x.npz", image=image, other=image)
    assert sorted(Tensors().preprocess(str(tmp_path / "x.npz"), io())) == ["image", "other"]
    assert Tensors().postprocess({"y": image})[0]["mean"] == 1.0


def test_tensors_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a file"):
        Tensors().preprocess(str(tmp_path / "x.npy"), io())
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"cannot be read as \.npy or \.npz"):
        Tensors().preprocess(str(tmp_path / "x.npy"), io())
    np.save(tmp_path / "x.npy", np.zeros(1))
    two = IOSpec((TensorSpec("a", "float32", (1,)), TensorSpec("b", "float32", (1,))), ())
    with pytest.raises(InputError, match=r"holds one array; .*give an \.npz file"):
        Tensors().preprocess(str(tmp_path / "x.npy"), two)


# Storing.


@pytest.mark.parametrize(
    "processor",
    [
        ImageClassification((32, 48), MEAN, STD, labels=("a", "b"), crop_pct=0.9, input="image"),
        ImageFeatures((32, 32), native_size=True, resize_size=40),
        Tensors(),
    ],
)
def test_a_processor_survives_json(processor: Processor) -> None:
    stored = json.loads(json.dumps(processors.to_dict(processor)))
    assert stored["kind"] == processor.kind
    assert processors.from_dict(stored) == processor
    assert type(processor)(**processor.to_dict()) == processor
    assert isinstance(processor, Processor)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {},
            "kind: expected one of image-classification, image-features, image-restoration, "
            "point-cloud-detection, tensors, got None",
        ),
        ({"kind": "tensors", "size": 1}, "size: not a setting of tensors; it has none"),
        ({"kind": "image-features"}, r"kind: image-features cannot be made from \[\]"),
        ({"kind": "image-features", "size": [0, 3]}, "size: expected two positive integers"),
        ({"kind": "image-features", "size": [8, 8], "std": [0, 1, 1]}, "std: expected positive numbers"),
        ({"kind": "image-features", "size": [8, 8], "mean": [1, 1]}, "mean: expected 3 numbers"),
        (
            {"kind": "image-features", "size": [8, 8], "interpolation": "cubic"},
            "interpolation: expected one of",
        ),
        ({"kind": "image-features", "size": [8, 8], "crop_mode": "fill"}, "crop_mode: expected one of"),
        ({"kind": "image-features", "size": [8, 8], "crop_pct": 0}, "crop_pct: expected a number in"),
        ({"kind": "image-features", "size": [8, 8], "resize_size": 0}, "resize_size: expected a positive"),
        ({"kind": "image-features", "size": [8, 8], "native_size": 1}, "native_size: expected true or false"),
        ({"kind": "image-features", "size": [8, 8], "input": 1}, "input: expected a name"),
        ({"kind": "image-classification", "size": [8, 8], "top_k": 0}, "top_k: expected a positive integer"),
        ({"kind": "image-classification", "size": [8, 8], "labels": "ab"}, "labels: expected a list"),
        ({"kind": "image-classification", "size": [8, 8], "labels": [1]}, "labels: expected only names"),
    ],
)
def test_settings_that_do_not_fit(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        processors.from_dict(settings)


def test_an_input_that_the_model_lacks(tmp_path: Path) -> None:
    path = save(picture(40, 40), tmp_path / "x.png")
    with pytest.raises(InputError, match="fills the input 'pixels'; the model takes image=float32"):
        ImageClassification((32, 32), input="pixels").preprocess(path, io())


def test_logging_is_quiet_for_an_ordinary_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        ImageClassification((32, 32)).preprocess(save(picture(40, 40), tmp_path / "x.jpg"), io())
    assert not [record for record in caplog.records if record.name.startswith("edgetx")]
