"""INT8 on ONNX Runtime's CPU: latency of swin_tiny, a small Swin trained on digits, DAT-light x2 on Set5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import digits
from benchmarks.record import Goal, Progress, Record
from benchmarks.restoration_quality import _set5, _weights
from edgetx import pipeline, quantization
from edgetx.benchmark import BenchReport, EngineSpec, compare, feeds
from edgetx.core import Target
from edgetx.dataset import folders, restoration
from edgetx.errors import UnavailableError
from edgetx.package import Package
from edgetx.processors import ImageRestoration
from edgetx.runtimes import load

TITLE = "INT8 packages: latency and accuracy against float32"
LEAST_SPEEDUP = 1.5
LARGEST_DROP = 0.5
LARGEST_LOSS = 0.1
PHOTOS = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
    "cat",
    "retina",
    "immunohistochemistry",
    "colorwheel",
)
"""Of scikit-image's collection: calibration data that no goal is measured on."""
CROP = 96
"""Side of the calibration crops of DAT-light's high-resolution pictures."""
DIGITS = 256
"""Training digits that the small Swin is calibrated on, 16 to a file."""


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """The ratio of latencies, the points that the digits lose, and the dB that Set5 loses."""
    target = Target(threads=threads)
    reports: dict[str, BenchReport] = {}
    goals = [
        *_swin(folder / "swin", threads, runs, rounds, reports, progress),
        *_digits(folder / "digits", target, threads, progress),
        *_restoration(folder / "dat", target, threads, runs, rounds, reports, progress),
    ]
    return Record(
        title=TITLE,
        reports=reports,
        goals=goals,
        notes=[
            "int8 packages made by `edgetx quantize`, on ONNX Runtime's CPU provider with edgetx's kernels, "
            "float32 packages beside them.",
            "swin_tiny has random weights, so that its budget is one of signal to noise, 20 dB.",
            f"DAT-light x2 was calibrated on crops of {len(PHOTOS)} photographs of scikit-image, halved by "
            "Pillow's bicubic filter; PSNR is that of the luma on outputs rounded to 8 bits, without 2 "
            "pixels at each border.",
            digits.NOTE,
        ],
    )


def _swin(
    folder: Path, threads: int, runs: int, rounds: int, reports: dict[str, BenchReport], progress: Progress
) -> list[Goal]:
    photos = folder / "photos"
    photos.mkdir(parents=True)
    for name in PHOTOS:
        _photo(name).save(photos / f"{name}.png")
    progress("swin_tiny: exporting")
    package = pipeline.export("swin_tiny", pretrained=False, output=folder / "swin_tiny.edgetx")
    made = quantization.quantize(package, calib=photos, progress=progress)
    report = _compare(package, made, folder, threads, runs, rounds, progress)
    reports["swin_tiny"] = report
    return [
        Goal(
            what=f"swin_tiny, batch 1: float32 / int8, {_eight(made)}",
            measured=report["int8"].speedup,
            at_least=LEAST_SPEEDUP,
        ),
        Goal(
            what="swin_tiny: outputs above their error, samples that judge", measured=_sqnr(made), unit="dB"
        ),
    ]


def _digits(folder: Path, target: Target, threads: int, progress: Progress) -> list[Goal]:
    import numpy as np

    folder.mkdir()
    trained = digits.train(folder, threads, progress)
    name, calib = trained.package.io.inputs[0].name, folder / "calib"
    calib.mkdir()
    for start in range(0, DIGITS, 16):
        np.savez(calib / f"{start:04}.npz", **{name: trained.training[start : start + 16]})
    goals = []
    whole = trained.accuracy(trained.package, target)
    for precision in quantization.PRECISIONS:
        made = quantization.quantize(trained.package, calib=calib, precision=precision, progress=progress)
        eight = trained.accuracy(made, target)
        goals.append(
            Goal(
                what=f"Swin on {len(trained.labels)} held-out digits: float32 {whole:.2f} %, {precision} "
                f"{eight:.2f} %, {_eight(made)}; lost",
                measured=whole - eight,
                unit="points",
                at_most=LARGEST_DROP,
            )
        )
    return goals


def _restoration(
    folder: Path,
    target: Target,
    threads: int,
    runs: int,
    rounds: int,
    reports: dict[str, BenchReport],
    progress: Progress,
) -> list[Goal]:
    set5 = _set5()
    source = _weights() / "DAT_light_x2.pth"
    progress(f"{source.name}: exporting")
    package = pipeline.export(str(source), output=folder / "DAT_light_x2.edgetx")
    made = quantization.quantize(
        package, calib=_pairs(folder / "pairs"), budget=f"psnr>=-{LARGEST_LOSS}", progress=progress
    )
    whole, eight = (_psnr(each, set5, target, progress) for each in (package, made))
    report = _compare(package, made, folder, threads, runs, rounds, progress)
    reports["DAT-light x2"] = report
    return [
        Goal(
            what=f"DAT-light x2, mean of Set5: float32 {whole:.3f} dB, int8 {eight:.3f} dB, "
            f"{_eight(made)}; lost",
            measured=whole - eight,
            unit="dB",
            at_most=LARGEST_LOSS,
        ),
        Goal(what="DAT-light x2: float32 / int8", measured=report["int8"].speedup),
    ]


def _photo(name: str) -> Any:
    from PIL import Image

    try:
        from skimage import data
    except ImportError as error:
        raise UnavailableError("the photographs come with scikit-image; pip install scikit-image") from error
    return Image.fromarray(getattr(data, name)()[..., :3])


def _pairs(folder: Path) -> Path:
    """Crops from the middle of the photographs, and the same halved."""
    from PIL import Image

    for kind in ("HR", "LR"):
        (folder / kind).mkdir(parents=True)
    for name in PHOTOS:
        photo = _photo(name)
        left, top = ((side - CROP) // 2 for side in photo.size)
        high = photo.crop((left, top, left + CROP, top + CROP))
        high.save(folder / "HR" / f"{name}.png")
        high.resize((CROP // 2, CROP // 2), Image.Resampling.BICUBIC).save(folder / "LR" / f"{name}.png")
    return folder


def _psnr(package: Package, data: Path, target: Target, progress: Progress) -> float:
    """The mean over Set5; PyTorch's is in the benchmark `restoration_quality`."""
    processor = package.processor
    assert isinstance(processor, ImageRestoration)
    found = []
    with load(package, target=target) as session:
        bench = restoration.Bench(processor, session.io, session.run, None)
        for pair in folders.pairs(data, processor.scale)[0]:
            progress(f"{package.path.name}: {pair.name}")
            picture = bench.measure(pair)
            if picture.package is None:
                raise RuntimeError(f"{pair.name} could not be measured: {picture.error}")
            found.append(picture.package.psnr)
    return sum(found) / len(found)


def _compare(
    package: Package,
    made: Package,
    folder: Path,
    threads: int,
    runs: int,
    rounds: int,
    progress: Progress,
) -> BenchReport:
    inputs = folder / "inputs.npz"
    feeds.save(inputs, package.golden()[0].inputs)
    engines = [
        EngineSpec(name=name, kind="package", path=str(each.path), inputs=str(inputs))
        for name, each in (("float32", package), ("int8", made))
    ]
    return compare(engines, baseline="float32", threads=threads, runs=runs, rounds=rounds, progress=progress)


def _eight(package: Package) -> str:
    entry = package.manifest.quantization
    assert entry is not None
    return f"{sum(layer.quantized for layer in entry.layers)} of {len(entry.layers)} products in 8 bits"


def _sqnr(package: Package) -> float:
    assert package.manifest.quantization is not None
    return float(package.manifest.quantization.sqnr)
