"""The examples of demos/embed, built as their README says, and what they print and write."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgetx
from edgetx import capi
from edgetx.errors import UnavailableError


@pytest.fixture(scope="session")
def programs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `classify` and `upscale`."""
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("no C compiler")
    try:
        cmake_dir = capi.cmake_dir()
    except UnavailableError as error:
        pytest.skip(str(error))
    tools = Path(sys.executable).parent
    cmake = shutil.which("cmake", path=f"{tools}{os.pathsep}{os.environ['PATH']}")
    if cmake is None:
        pytest.skip("no cmake")
    folder = tmp_path_factory.mktemp("embed")
    environment = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    configure = [cmake, "-S", str(root / "demos" / "embed"), "-B", str(folder), "-G", "Ninja"]
    for command in ([*configure, f"-Dedgetx_DIR={cmake_dir}"], [cmake, "--build", str(folder)]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning:" not in done.stdout
    return folder


def run(program: Path, *arguments: object, ort_library: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"EDGETX_ONNXRUNTIME": ort_library}
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_classify(
    programs: Path, classifier: Path, photograph: Path, ort_library: str, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.ppm"
    Image.open(photograph).convert("RGB").save(picture)
    done = run(programs / "classify", classifier, picture, ort_library=ort_library)
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first.startswith("classifier on ONNX Runtime 1.")
    with edgetx.load(classifier) as session:
        feeds = session.processor.preprocess(str(picture), session.io)
        expected = session.processor.postprocess(session.run(feeds))
    assert [line.split() for line in lines[: len(expected)]] == [
        [str(each["index"]), f"{each['probability']:.6f}", each["label"]] for each in expected
    ]


def test_upscale(
    programs: Path, upscaler: Callable[..., Path], photograph: Path, ort_library: str, tmp_path: Path
) -> None:
    from edgetx.restoration import restore

    picture, restored = tmp_path / "picture.ppm", tmp_path / "restored.ppm"
    Image.open(photograph).convert("RGB").save(picture)
    folder = upscaler()
    done = run(programs / "upscale", folder, picture, restored, ort_library=ort_library)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "451x300 -> 902x600"
    expected = np.asarray(restore(folder, picture).image)
    assert np.array_equal(np.asarray(Image.open(restored)), expected)


@pytest.mark.parametrize("program", ["classify", "upscale"])
def test_failures_are_told(
    program: str, programs: Path, classifier: Path, ort_library: str, tmp_path: Path
) -> None:
    output = [tmp_path / "out.ppm"] if program == "upscale" else []
    picture = tmp_path / "picture.ppm"
    done = run(programs / program, ort_library=ort_library)
    assert done.returncode == 2 and done.stderr.startswith(f"usage: {program} PKG PICTURE.ppm")
    picture.write_bytes(b"P6\n4 4\n255\n123")
    done = run(programs / program, classifier, picture, *output, ort_library=ort_library)
    assert done.returncode == 1 and "is not a whole 8-bit binary PPM" in done.stderr
    Image.new("RGB", (9, 9)).save(picture)
    done = run(programs / program, tmp_path / "nowhere", picture, *output, ort_library=ort_library)
    assert done.returncode == 1 and "does not exist; give the folder" in done.stderr
    done = run(programs / program, classifier, picture, *output, ort_library="/nowhere.so")
    assert done.returncode == 1 and "ONNX Runtime cannot be loaded" in done.stderr


def test_pkg_config(root: Path, ort_library: str, tmp_path: Path) -> None:
    """The other way to find the library, and the header as C99 and as C++17."""
    tool = shutil.which("pkg-config") or shutil.which("pkgconf")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if tool is None or compiler is None:
        pytest.skip("pkg-config or a C compiler is missing")
    environment = os.environ | {"PKG_CONFIG_PATH": str(capi.pkgconfig_dir())}
    asked = [tool, "--cflags", "--libs", "edgetx"]
    flags = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout.split()
    program = tmp_path / "classify"
    source = str(root / "demos" / "embed" / "classify.c")
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run(
        [compiler, *strict, source, *flags, f"-Wl,-rpath,{capi.library().parent}", "-o", str(program)],
        check=True,
    )
    assert run(program, ort_library=ort_library).returncode == 2


def test_the_module_names_its_files() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgetx.capi", "--library", "--include-dir"],
        capture_output=True,
        text=True,
        check=True,
    )
    library, include = map(Path, done.stdout.splitlines())
    assert library.name == "libedgetx.so" and (include / "edgetx.h").is_file()
