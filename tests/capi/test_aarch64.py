"""The C examples on 64-bit Arm, under qemu-user, with ONNX Runtime's aarch64 build; for `make aarch64`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgetx

BUILD = os.environ.get("EDGETX_AARCH64_BUILD")
if not BUILD:
    pytest.skip("no cross build; make aarch64 makes one", allow_module_level=True)

ROOT = "/usr/aarch64-linux-gnu"
# 1.32.0 crashes while it reads the processor's topology, which under qemu is the host's.
ORT_VERSION = "1.27.0"


@pytest.fixture(scope="module")
def ort_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`libonnxruntime.so` of the wheel for aarch64."""
    folder = tmp_path_factory.mktemp("wheel")
    asked = [f"onnxruntime=={ORT_VERSION}", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    platforms = ["--platform", "manylinux_2_28_aarch64", "--platform", "manylinux_2_27_aarch64"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", *asked, *platforms],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"onnxruntime for aarch64 cannot be downloaded: {done.stderr.strip().splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if "/libonnxruntime.so" in each)
        return Path(archive.extract(name, folder))


@pytest.fixture(scope="module")
def programs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, stage = tmp_path_factory.mktemp("embed"), tmp_path_factory.mktemp("stage")
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={root / 'cmake' / 'aarch64.cmake'}"
    package = f"-Dedgetx_DIR={stage / 'edgetx' / 'capi' / 'lib' / 'cmake' / 'edgetx'}"
    cmake = str(shutil.which("cmake"))
    for command in (
        [cmake, "--install", str(BUILD), "--prefix", str(stage)],
        [cmake, "-S", str(root / "demos" / "embed"), "-B", str(folder), "-G", "Ninja", toolchain, package],
        [cmake, "--build", str(folder)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def run(program: Path, *arguments: object, library: Path) -> str:
    environment = os.environ | {"EDGETX_ONNXRUNTIME": str(library)}
    command = ["qemu-aarch64", "-L", ROOT, str(program), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_classify(
    programs: Path, ort_library: Path, classifier: Path, photograph: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.ppm"
    Image.open(photograph).convert("RGB").save(picture)
    lines = run(programs / "classify", classifier, picture, library=ort_library).splitlines()[1:]
    with edgetx.load(classifier) as session:
        feeds = session.processor.preprocess(str(picture), session.io)
        expected = session.processor.postprocess(session.run(feeds))
    assert [line.split()[0] for line in lines[: len(expected)]] == [str(each["index"]) for each in expected]
    for line, each in zip(lines, expected, strict=False):
        assert abs(float(line.split()[1]) - each["probability"]) < 1e-6


def test_upscale(
    programs: Path, ort_library: Path, upscaler: Callable[..., Path], photograph: Path, tmp_path: Path
) -> None:
    from edgetx.restoration import restore

    picture, restored = tmp_path / "picture.ppm", tmp_path / "restored.ppm"
    Image.open(photograph).convert("RGB").crop((0, 0, 101, 67)).save(picture)
    run(programs / "upscale", upscaler(), picture, restored, library=ort_library)
    expected = np.asarray(restore(upscaler("again"), picture).image).astype(int)
    # Sums in another order on another processor: a level of 255 at most.
    assert np.abs(np.asarray(Image.open(restored)).astype(int) - expected).max() <= 1


def test_a_model_with_edgetx_operators(
    programs: Path,
    ort_library: Path,
    swin: Path,
    photograph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernels' aarch64 code inside ONNX Runtime, against ONNX Runtime here."""
    picture = tmp_path / "picture.ppm"
    Image.open(photograph).convert("RGB").save(picture)
    monkeypatch.setenv("EDGETX_OPS_LIBRARY", str((Path(str(BUILD)) / "libedgetx_ort.so").resolve()))
    first, *lines = run(programs / "classify", swin, picture, library=ort_library).splitlines()
    monkeypatch.delenv("EDGETX_OPS_LIBRARY")
    assert first.endswith("kernels edgetx")
    with edgetx.load(swin) as session:
        feeds = session.processor.preprocess(str(picture), session.io)
        expected = session.processor.postprocess(session.run(feeds))
    for line, each in zip(lines, expected, strict=True):
        assert int(line.split()[0]) == each["index"]
        assert abs(float(line.split()[1]) - each["probability"]) < 1e-6
