"""What cannot be quantised, and what the message says; nothing is ever written."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import edgetx
from edgetx.cli.app import app
from edgetx.errors import EdgetxError, InputError, PackageError
from edgetx.package import Package
from edgetx.quantization import Budget

Make = Callable[..., Package]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("good", r"cannot read the budget 'good'; accepted: psnr>=-0.1, top1>=-0.5, top5>=-0.5 or sqnr>=20"),
        ("psnr<=0.1", "cannot read the budget"),
        ("psnr>=", "cannot read the budget"),
        ("map>=-1", "bounds 'map'; accepted: psnr>=-0.1"),
        ("top1>=0.5", "asks for more than the float32 package has; top1 is a difference"),
        ("sqnr>=-3", "would accept an error as large as the output"),
    ],
)
def test_budgets_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Budget.parse(text)


def test_budgets_in_their_forms() -> None:
    assert Budget.parse(" PSNR >= -.1 ") == Budget("psnr", -0.1)
    assert str(Budget.parse("top5>=-0.50")) == "top5>=-0.5"
    assert Budget("psnr", -0.1).holds(-0.1) and not Budget("psnr", -0.1).holds(-0.1, share=0.75)
    assert Budget("sqnr", 20).holds(20) and not Budget("sqnr", 20).holds(21, share=0.75)


def refused(package: Package, folder: Path, message: str, error: type[EdgetxError], **options: Any) -> None:
    before = {path.name for path in package.path.parent.iterdir()}
    with pytest.raises(error, match=message) as caught:
        edgetx.quantize(package, calib=folder, **options)
    assert caught.value.exit_code == 2
    assert {path.name for path in package.path.parent.iterdir()} == before


def test_folders(mlp: Make, restorer: Package, classifier: Make, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(mlp(), tmp_path / "none", "none does not exist", InputError)
    refused(restorer, restorer.path / "manifest.json", "is a file", InputError)
    refused(mlp(name="again"), empty, "holds no arrays; the package has no processor", InputError)
    refused(classifier(), empty, "holds no pictures; accepted: files of type .bmp", InputError)
    refused(restorer, empty, "no folder with pictures of high", InputError)


def test_files(mlp: Make, restorer: Package, arrays: Path, pairs: Path, tmp_path: Path) -> None:
    parent = mlp()
    torn = arrays / "00.npz"
    torn.write_bytes(torn.read_bytes()[:100])
    refused(parent, arrays, r"00.npz: .*cannot be read.*; take it out of the folder", InputError)
    np.savez(torn, x=np.zeros((1, 31), np.float32))
    refused(parent, arrays, "00.npz: input 'x' has size 31 on axis 1", InputError)
    np.savez(torn, x=np.full((1, 32), np.nan, np.float32))
    refused(parent, arrays, "00.npz: input 'x' holds NaN", InputError)
    broken = pairs / "LR" / "2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    refused(restorer, pairs, r"LR/2.png: .*; take it out of the folder", InputError)
    Image.new("RGB", (1, 1)).save(broken)
    Image.new("RGB", (1, 1)).save(pairs / "HR" / "2.png")
    refused(restorer, pairs, "LR/2.png: input 'image', axis 2", InputError)
    broken.unlink()
    refused(restorer, pairs, "1 pictures have no partner, first 2.png", InputError)


def test_pictures_of_one_pixel_and_of_another_kind(classifier: Make, mlp: Make, colours: Path) -> None:
    package = classifier()
    for index, mode in enumerate(("RGB", "L", "RGBA", "1")):
        Image.new(mode, (1, 1)).save(colours / "1" / f"tiny{index}.png")
    assert edgetx.quantize(package, calib=colours, budget="top1>=-1").verdict is not None  # all are resized
    refused(mlp(), colours, "holds no arrays", InputError)


def test_one_sample(mlp: Make, arrays: Path) -> None:
    for path in list(arrays.iterdir())[1:]:
        path.unlink()
    refused(mlp(), arrays, "holds 1 sample; give at least 2", InputError)
    refused(mlp(name="again"), arrays, "limit is 1; accepted: 2 or more", InputError, limit=1)


def test_budgets_of_another_task(
    mlp: Make, restorer: Package, classifier: Make, arrays: Path, pairs: Path
) -> None:
    refused(
        mlp(),
        arrays,
        r"psnr>=-0.1 is for another task than the package's \(tensors\)",
        InputError,
        budget="psnr>=-0.1",
    )
    refused(
        restorer,
        pairs,
        "top1>=-1 is for another task .*image-restoration.*accepted: psnr>=",
        InputError,
        budget="top1>=-1",
    )
    refused(classifier(), pairs / "HR", "needs the truth: a folder per class", InputError, budget="top1>=-1")
    refused(restorer, pairs / "LR", "needs the truth: pairs in HR and LR", InputError, budget="psnr>=-1")


def test_random_weights_have_no_accuracy(classifier: Make, colours: Path) -> None:
    package = classifier(weights="random")
    refused(package, colours, "weights are random, so that top1 means nothing", InputError, budget="top1>=-1")
    made = edgetx.quantize(package, calib=colours)
    assert made.manifest.quantization is not None and made.manifest.quantization.budget == "sqnr>=20"


def test_packages(mlp: Make, arrays: Path, tmp_path: Path) -> None:
    parent = mlp()
    made = edgetx.quantize(parent, calib=arrays)
    refused(made, arrays, "computes in int8 already; give the float32 package", PackageError)
    with pytest.raises(PackageError, match="computes in int8 already"):
        edgetx.convert(made)
    refused(parent, arrays, "already exists; choose another output folder, or --force", PackageError)
    refused(parent, arrays, "is the package to quantise, which stays", InputError, output=parent.path)
    refused(mlp(name="bare", golden=False), arrays, "has no golden.npz", PackageError)
    refused(parent, arrays, "unknown precision 'int4'; accepted: int8, fp8", InputError, precision="int4")
    refused(parent, arrays, "unknown calibration 'best'; accepted:", InputError, calibration="best")
    refused(
        mlp(name="old", opset=18), arrays, "has opset 18, and fp8 needs 19", PackageError, precision="fp8"
    )


def test_outputs_that_cannot_be_written(mlp: Make, arrays: Path, tmp_path: Path) -> None:
    parent = mlp()
    output = arrays / "00.npz" / "made"
    refused(parent, arrays, "a part of its path is a file", PackageError, output=output)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        refused(
            parent, arrays, "cannot write the package .*; what was there before is unchanged", PackageError
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_exit_codes(mlp: Make, arrays: Path) -> None:
    run = CliRunner().invoke
    command = ["quantize", str(mlp().path), "--calib"]
    for arguments in ([*command, str(arrays), "--budget", "good"], [*command, "nowhere"]):
        result = run(app, arguments)
        assert result.exit_code == 2
        assert result.output.splitlines()[-1].startswith("error: ")
