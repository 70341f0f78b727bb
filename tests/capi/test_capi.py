"""`libedgetx` against the Python runtime, bit for bit, and with everything wrong that a caller can do."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, c_size_t, c_uint8, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import capi_binding as binding  # conftest.py makes it importable
import numpy as np
import PIL
import pytest
from PIL import Image

import edgetx
from edgetx.processors import INTERPOLATIONS, to_dict

ARGUMENT, PACKAGE, UNAVAILABLE = binding.ARGUMENT, binding.PACKAGE, binding.UNAVAILABLE


@pytest.fixture
def pixels() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)


def png(pixels: np.ndarray[Any, Any], path: Path) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


def with_processor(package: Path, **changes: Any) -> Path:
    """The package with other settings of its processor."""
    file = package / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["processor"].update(changes)
    file.write_text(json.dumps(manifest))
    return package


def free(library: Any, package: c_void_p, *tensors: c_void_p) -> None:
    for each in tensors:
        library.c.edgetx_tensors_free(each)
    library.c.edgetx_package_close(package)


# ---- the same bits as Python


@pytest.mark.skipif(
    int(PIL.__version__.partition(".")[0]) < 13, reason="before Pillow 13 tall pictures are rounded otherwise"
)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(37, 53), (80, 20), (5, 5), (8, 8), (1, 1), (300, 451)], ids=str)
def test_photographs(
    interpolation: str, size: tuple[int, int], classifier: Path, library: Any, tmp_path: Path
) -> None:
    random = np.random.default_rng(size[0])
    pixels = random.integers(0, 256, (*size, 3), np.uint8)
    file = png(pixels, tmp_path / "picture.png")
    for change in (
        {},
        {"crop_pct": 0.7},
        {"crop_mode": "squash"},
        {"resize_size": 11},
        {"size": [8, 13], "crop_pct": 0.9},
    ):
        with_processor(classifier, interpolation=interpolation, **change)
        # `size` other than the model's is for the processor alone.
        expected = edgetx.Package.open(classifier).processor.preprocess(
            file, edgetx.Package.open(classifier).io
        )
        package = library.open(classifier)
        (given,) = library.take(library.preprocess(package, pixels))
        assert np.array_equal(given, expected["image"]), (interpolation, size, change)
        free(library, package)
        with_processor(classifier, crop_pct=1.0, crop_mode="center", resize_size=None, size=[8, 8])


def test_classes(classifier: Path, library: Any, ort_library: str, pixels: Any, tmp_path: Path) -> None:
    file = png(pixels, tmp_path / "picture.png")
    with edgetx.load(classifier) as session:
        feeds = session.processor.preprocess(file, session.io)
        outputs = session.run(feeds)
        expected = session.processor.postprocess(outputs)
    package = library.open(classifier)
    session = library.session(package, library=ort_library)
    inputs = library.preprocess(package, pixels)
    result = library.make("session_run_tensors", session, inputs)
    assert np.array_equal(library.arrays(result)[0], outputs["logits"])
    classes, count = (binding.Class * 5)(), c_size_t()
    library.call("top_classes", package, result, classes, c_size_t(5), byref(count))
    assert count.value == 3
    found = [(c.label.decode(), c.index, c.probability) for c in classes[: count.value]]
    assert [each[:2] for each in found[:2]] == [(each["label"], each["index"]) for each in expected]
    assert np.allclose(
        [each[2] for each in found[:2]], [each["probability"] for each in expected], rtol=1e-14
    )
    assert library.c.edgetx_session_describe(session).startswith(b"ONNX Runtime 1.")
    library.c.edgetx_session_close(session)
    free(library, package, inputs, result)


@pytest.mark.parametrize("value_range", [1.0, 255.0])
@pytest.mark.parametrize("size", [(37, 53), (8, 8), (3, 9), (1, 1)], ids=str)
def test_restored_pictures(
    value_range: float,
    size: tuple[int, int],
    upscaler: Callable[..., Path],
    library: Any,
    ort_library: str,
    tmp_path: Path,
) -> None:
    from edgetx.restoration import restore

    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    folder = upscaler(value_range=value_range)
    expected = np.asarray(restore(folder, png(pixels, tmp_path / "picture.png")).image)
    package = library.open(folder)
    session = library.session(package, library=ort_library)
    inputs = library.preprocess(package, pixels)
    result = library.make("session_run_tensors", session, inputs)
    width, height = c_uint32(), c_uint32()
    library.call("restored_size", package, size[1], size[0], byref(width), byref(height))
    assert (height.value, width.value) == (2 * size[0], 2 * size[1])
    stride = 3 * width.value + 5
    out = np.full((height.value, stride), 77, np.uint8)
    pointer = out.ctypes.data_as(ctypes.POINTER(c_uint8))
    library.call("restored_rgb", package, result, width, height, c_size_t(stride), pointer)
    assert np.array_equal(out[:, : stride - 5].reshape(expected.shape), expected)
    assert (out[:, stride - 5 :] == 77).all()
    library.c.edgetx_session_close(session)
    free(library, package, inputs, result)


@pytest.mark.slow
def test_a_model_with_edgetx_operators(library: Any, ort_library: str, swin: Path) -> None:
    image = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    package = library.open(swin)
    for threads, operators in ((1, None), (1, "")):
        target = edgetx.Target(threads=threads, custom_ops=operators is None)
        with edgetx.load(swin, target=target) as session:
            (expected,) = session.run({session.io.inputs[0].name: image}).values()
        opened = library.session(package, library=ort_library, threads=threads, operators=operators)
        described = library.c.edgetx_session_describe(opened).decode()
        assert described.endswith("kernels edgetx" if operators is None else "switched off)")
        (given,) = library.run(opened, binding.Tensor.of(image))
        assert np.array_equal(given, expected)
        library.c.edgetx_session_close(opened)
    free(library, package)


def test_specs(upscaler: Callable[..., Path], library: Any) -> None:
    package = library.open(upscaler())
    spec = binding.Spec()
    library.call("package_input", package, c_size_t(0), byref(spec))
    assert (spec.name, spec.dtype, spec.rank) == (b"image", 1, 4)
    assert [(d.size, d.symbol, d.min, d.max, d.step) for d in spec.dims[: spec.rank]] == [
        (0, b"batch", 1, 0, 1),
        (3, None, 3, 3, 1),
        (0, b"height", 8, 0, 4),
        (0, b"width", 8, 0, 4),
    ]
    with pytest.raises(binding.CapiError, match="output 1 was asked for; the package has 1"):
        library.call("package_output", package, c_size_t(1), byref(spec))
    free(library, package)


def test_threads_share_a_session(classifier: Path, library: Any, ort_library: str) -> None:
    package = library.open(classifier)
    session = library.session(package, library=ort_library, threads=1)
    images = np.random.default_rng(0).normal(size=(64, 1, 3, 8, 8)).astype(np.float32)
    free(library, package)  # a session keeps what it needs

    def run(image: Any) -> Any:
        return library.run(session, binding.Tensor.of(image))[0]

    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(run, images))
    for image, logits in zip(images, given, strict=True):
        assert np.array_equal(logits, run(image))
    library.c.edgetx_session_close(session)


# ---- bad use


def test_null_pointers(classifier: Path, library: Any, ort_library: str) -> None:
    package = library.open(classifier)
    session = library.session(package, library=ort_library)
    functions = {
        "package_open": 3,
        "package_input": 3,
        "package_output": 3,
        "session_open": 3,
        "session_run": 4,
        "session_run_tensors": 3,
        "tensors_get": 3,
        "preprocess_rgb": 3,
        "top_classes": 5,
        "restored_size": 5,
        "restored_rgb": 6,
    }
    for name, count in functions.items():
        with pytest.raises(binding.CapiError, match="is a null pointer") as caught:
            library.call(name, *[None] * count)
        assert caught.value.status == ARGUMENT
    with pytest.raises(binding.CapiError, match="outputs is a null pointer"):
        library.call("session_run", session, (binding.Tensor * 1)(), c_size_t(1), None)
    image = binding.Image(None, 3, 3, 0)
    with pytest.raises(binding.CapiError, match=r"image\.rgb is a null pointer"):
        library.make("preprocess_rgb", package, byref(image))
    for name in ("package_close", "session_close", "tensors_free", "session_options_init"):
        getattr(library.c, f"edgetx_{name}")(None)
    assert library.c.edgetx_package_name(None) == b""
    library.c.edgetx_session_close(session)
    free(library, package)


IMAGE = np.zeros((1, 3, 8, 8), np.float32)


def changed(**fields: Any) -> Any:
    tensor = binding.Tensor.of(IMAGE)
    for name, value in fields.items():
        setattr(tensor, name, value)
    return tensor


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([], r"0 inputs were given; the package takes image=float32\[batch,3,8,8\]"),
        ([changed(), changed()], "2 inputs were given"),
        ([changed(name=b"picture")], "the package has no input 'picture'"),
        ([changed(dtype=4)], "input 'image' is float64; expected float32"),
        ([changed(dtype=99)], "input 'image' is unknown; expected float32"),
        ([changed(rank=3)], r"input 'image' has 3 dimensions"),
        ([changed(rank=400)], r"input 'image' has 400 dimensions"),
        ([changed(bytes=767)], r"input 'image' has 767 bytes; its shape \[1,3,8,8\] needs 768"),
        ([changed(shape=(ctypes.c_int64 * 8)(1, 3, 8, 9))], r"shape \[1,3,8,9\]; .*: dimension 3 is 8"),
        ([changed(shape=(ctypes.c_int64 * 8)(0, 3, 8, 8))], "batch is 1 to any size"),
        ([changed(shape=(ctypes.c_int64 * 8)(-1, 3, 8, 8))], "batch is 1 to any size"),
        ([changed(shape=(ctypes.c_int64 * 8)(2**60, 3, 8, 8))], "which no memory holds"),
        ([changed(data=None)], "the data of an input is a null pointer"),
    ],
)
def test_wrong_inputs(
    tensors: list[Any], message: str, classifier: Path, library: Any, ort_library: str
) -> None:
    package = library.open(classifier)
    session = library.session(package, library=ort_library)
    with pytest.raises(binding.CapiError, match=message) as caught:
        library.run(session, *tensors)
    assert caught.value.status == ARGUMENT
    library.c.edgetx_session_close(session)
    free(library, package)


@pytest.mark.parametrize(
    ("settings", "status", "message"),
    [
        ({"backend": "onnx"}, ARGUMENT, "unknown backend 'onnx'; accepted: onnxruntime, tensorrt"),
        ({"threads": -1}, ARGUMENT, "threads is -1; expected 0 or more"),
        ({"device": 1}, ARGUMENT, "runs on the CPU and takes no device"),
        ({"struct_size": 7}, ARGUMENT, "call edgetx_session_options_init first"),
        (
            {"library": "/nowhere/libonnxruntime.so"},
            UNAVAILABLE,
            "ONNX Runtime cannot be loaded .*EDGETX_ONNX",
        ),
        ({"library": "libm.so.6"}, UNAVAILABLE, "is not ONNX Runtime"),
    ],
)
def test_wrong_options(
    settings: dict[str, Any], status: int, message: str, classifier: Path, library: Any
) -> None:
    package = library.open(classifier)
    with pytest.raises(binding.CapiError, match=message) as caught:
        library.session(package, **settings)
    assert caught.value.status == status
    free(library, package)


@pytest.mark.parametrize(
    ("settings", "status", "message"),
    [
        ({"threads": 2}, ARGUMENT, "threads are the backend onnxruntime's"),
        ({"library": "/nowhere/libnvinfer.so"}, UNAVAILABLE, "TensorRT cannot be loaded .*EDGETX_TENSORRT"),
        ({"library": "libm.so.6"}, UNAVAILABLE, "is not TensorRT"),
    ],
)
def test_wrong_options_of_tensorrt(
    settings: dict[str, Any], status: int, message: str, classifier: Path, library: Any, tensorrt: None
) -> None:
    package = library.open(classifier)
    with pytest.raises(binding.CapiError, match=message) as caught:
        library.session(package, backend="tensorrt", **settings)
    assert caught.value.status == status
    free(library, package)


def test_tensorrt_rtx_is_told_from_tensorrt(classifier: Path, library: Any, tensorrt: None) -> None:
    """Its classes are laid out differently: a call would crash."""
    found = importlib.util.find_spec("tensorrt_rtx_libs")
    if found is None or not found.submodule_search_locations:
        pytest.skip("tensorrt-rtx is not installed")
    (file,) = Path(found.submodule_search_locations[0]).glob("libtensorrt_rtx.so.*")
    package = library.open(classifier)
    with pytest.raises(binding.CapiError, match=r"is of version 1\..*built for TensorRT 1\d") as caught:
        library.session(package, backend="tensorrt", library=str(file))
    assert caught.value.status == UNAVAILABLE
    free(library, package)


def test_wrong_pictures(classifier: Path, upscaler: Callable[..., Path], library: Any, pixels: Any) -> None:
    package = library.open(classifier)
    for image, message in (
        (binding.Image(binding.Image.of(pixels).rgb, 0, 5, 0), "the picture has 0x5 pixels"),
        (binding.Image(binding.Image.of(pixels).rgb, 53, 37, 8), "image.stride is 8; a row of 53"),
    ):
        with pytest.raises(binding.CapiError, match=message):
            library.make("preprocess_rgb", package, byref(image))
    long = np.zeros((1, 2**20, 3), np.uint8)
    with_processor(classifier, resize_size=1024)
    other = library.open(classifier)
    with pytest.raises(binding.CapiError, match="crop it first"):
        library.preprocess(other, long)
    size = c_uint32()
    with pytest.raises(binding.CapiError, match="does not restore pictures"):
        library.call("restored_size", package, 5, 5, byref(size), byref(size))
    free(library, package)
    free(library, other)
    package = library.open(upscaler())
    inputs = library.preprocess(package, pixels)
    count = c_size_t()
    with pytest.raises(binding.CapiError, match="does not classify"):
        library.call("top_classes", package, inputs, None, c_size_t(0), byref(count))
    with pytest.raises(
        binding.CapiError, match=r"a picture of 500x1 was asked for, output 'image' has 56x40"
    ):
        library.call("restored_rgb", package, inputs, 500, 1, c_size_t(0), (c_uint8 * 1500)())
    free(library, package, inputs)


# ---- bad packages


def test_cut_packages(classifier: Path, library: Any, tmp_path: Path) -> None:
    """Every file cut at every 4 KiB, and at the start and one byte before its end."""
    folder = tmp_path / "cut"
    shutil.copytree(classifier, folder)
    # Longer than a block or two, so that there is something to cut.
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["notes"] = ["x" * 100] * 300
    (folder / "manifest.json").write_text(json.dumps(manifest))
    library.c.edgetx_package_close(library.open(folder))
    cuts = 0
    for file in sorted(each for each in folder.iterdir() if each.is_file()):
        whole = file.read_bytes()
        for length in {0, len(whole) - 1, *range(4096, len(whole), 4096)}:
            file.write_bytes(whole[:length])
            with pytest.raises(binding.CapiError) as caught:
                library.open(folder)
            assert caught.value.status == PACKAGE
            cuts += 1
        file.write_bytes(whole)
    assert cuts > 12
    library.c.edgetx_package_close(library.open(folder))


@pytest.mark.parametrize(
    "name", ["../secret", "a/../../secret", "/etc/passwd", "a\\b", "c:x", "", "a//b", "./a", "manifest.json"]
)
def test_a_path_outside_the_package(name: str, classifier: Path, library: Any) -> None:
    manifest = json.loads((classifier / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "size": 1}
    (classifier / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(binding.CapiError, match="expected a path inside the package folder") as caught:
        library.open(classifier)
    assert caught.value.status == PACKAGE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "schema version 99; this library understands up to version 2"),
        ({"schema_version": 0}, "field schema_version: expected an integer from 1"),
        ({"name": 3}, "field name: expected text, got 3"),
        ({"io": []}, "field io: expected an object, got a list"),
        ({"io": {"inputs": [{"name": "x", "dtype": "float31", "shape": []}], "outputs": []}},
         r"field io.inputs\[0\].dtype: expected a dtype such as float32, got \"float31\""),
        ({"io": {"inputs": [{"name": "x", "dtype": "float32", "shape": [0]}], "outputs": []}},
         r"field io.inputs\[0\].shape\[0\]: expected an integer from 1"),
        ({"io": {"inputs": [{"name": "x", "dtype": "float32", "shape": [1] * 9}], "outputs": []}},
         "expected at most 8 dimensions"),
        ({"files": {}}, "model.onnx is missing"),
        ({"files": {"model.onnx": {"sha256": "0" * 64, "size": 1, "crc32": "1234567G"}}},
         r"field files\['model.onnx'\].crc32: expected 8 hexadecimal digits"),
        ({"processor": {"kind": "image-classification", "size": [8, 0]}}, r"field processor.size\[1\]"),
        ({"processor": {"kind": "image-features", "size": [8, 8], "std": [1, 1, 0]}}, "field processor.std"),
        ({"processor": {"kind": "image-restoration", "scale": 2**70}}, "field processor.scale"),
    ],
)  # fmt: skip
def test_wrong_manifests(change: dict[str, Any], message: str, classifier: Path, library: Any) -> None:
    manifest = json.loads((classifier / "manifest.json").read_text())
    (classifier / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(binding.CapiError, match=message) as caught:
        library.open(classifier)
    assert caught.value.status == PACKAGE


def test_other_folders(classifier: Path, library: Any, tmp_path: Path) -> None:
    for folder, message in (
        (tmp_path / "nowhere", "does not exist"),
        (classifier / "model.onnx", "is a file"),
        (tmp_path, "is not an edgetx package"),
    ):
        with pytest.raises(binding.CapiError, match=message):
            library.open(folder)
    with pytest.raises(binding.CapiError, match="unknown flags 6"):
        library.open(classifier, 6)


@pytest.mark.parametrize("schema", [1, 2])
def test_a_changed_byte(schema: int, classifier: Path, library: Any) -> None:
    """By the CRC-32, or by the SHA-256 in packages of schema 1, which have none."""
    if schema == 1:
        manifest = json.loads((classifier / "manifest.json").read_text())
        for entry in manifest["files"].values():
            del entry["crc32"]
        (classifier / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 1}))
    library.c.edgetx_package_close(library.open(classifier))
    model = classifier / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    with pytest.raises(binding.CapiError, match=r"model\.onnx has changed since it was written"):
        library.open(classifier)
    library.c.edgetx_package_close(library.open(classifier, 1))  # only sizes


def test_a_model_that_the_engine_refuses(classifier: Path, library: Any, ort_library: str) -> None:
    model = classifier / "model.onnx"
    model.write_bytes(b"\xff" * model.stat().st_size)
    package = library.open(classifier, 1)
    with pytest.raises(binding.CapiError, match=r"cannot load .*model\.onnx") as caught:
        library.session(package, library=ort_library)
    assert caught.value.status == binding.ENGINE
    free(library, package)


def test_settings_of_processors_are_those_of_python(classifier: Path, library: Any) -> None:
    """What the manifest leaves out has the same default in both."""
    opened = edgetx.Package.open(classifier)
    assert opened.processor is not None
    stored = to_dict(opened.processor)
    plain = type(opened.processor)(size=(8, 8))
    file = classifier / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["processor"] = {"kind": stored["kind"], "size": [8, 8]}
    file.write_text(json.dumps(manifest))
    pixels = np.random.default_rng(5).integers(0, 256, (20, 30, 3), np.uint8)
    expected = plain.preprocess(png(pixels, classifier.parent / "p.png"), opened.io)["image"]
    package = library.open(classifier)
    (given,) = library.take(library.preprocess(package, pixels))
    assert np.array_equal(given, expected)
    free(library, package)
