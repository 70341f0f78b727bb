"""Accuracy in float16 on ONNX Runtime's CPU: DAT-light x2 on Set5, and a small Swin trained on digits."""

from __future__ import annotations

from pathlib import Path

from benchmarks import digits
from benchmarks.record import Goal, Progress, Record
from benchmarks.restoration_quality import _set5, _weights
from edgetx import pipeline, precision
from edgetx.core import Target
from edgetx.dataset import Restoration, evaluate

TITLE = "Half precision: accuracy against float32"
LARGEST_LOSS = 0.02
LARGEST_DROP = 0.2


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """The PSNR that DAT-light x2 loses, in dB, and the accuracy that the Swin loses, in points."""
    target = Target(threads=threads)
    goals = [*_restoration(folder, target, progress), *_digits(folder, target, threads, progress)]
    return Record(
        title=TITLE,
        reports={},
        goals=goals,
        notes=[
            "float16 packages made by `edgetx convert`, on ONNX Runtime's CPU provider with edgetx's "
            "kernels; operators without a float16 kernel there run in float32.",
            "PSNR is that of the luma (BT.601, 16 to 235) on outputs rounded to 8 bits, without 2 pixels at "
            "each border.",
            digits.NOTE,
        ],
    )


def _restoration(folder: Path, target: Target, progress: Progress) -> list[Goal]:
    source = _weights() / "DAT_light_x2.pth"
    progress(f"{source.name}: exporting")
    package = pipeline.export(str(source), output=folder / "DAT_light_x2.edgetx")
    half = precision.convert(package, progress=progress)
    report = evaluate(half, _set5(), target=target, progress=progress)
    assert isinstance(report, Restoration)
    goals = []
    for picture in report.pictures:
        if picture.package is None or picture.pytorch is None or picture.difference is None:
            raise RuntimeError(f"{picture.name} could not be measured: {picture.error or report.notes}")
        goals.append(
            Goal(
                what=f"DAT-light x2, {picture.name}: PyTorch {picture.pytorch.psnr:.3f} dB, "
                f"float16 {picture.package.psnr:.3f} dB; lost",
                measured=-picture.difference,
                unit="dB",
                at_most=LARGEST_LOSS,
            )
        )
    conversion = half.manifest.conversion
    assert conversion is not None
    kept = sum(entry.nodes for entry in conversion.kept)
    goals.append(Goal(what=f"DAT-light x2, nodes in float32, of {conversion.half + kept}", measured=kept))
    return goals


def _digits(folder: Path, target: Target, threads: int, progress: Progress) -> list[Goal]:
    trained = digits.train(folder, threads, progress)
    half = precision.convert(trained.package, progress=progress)
    whole, rounded = (trained.accuracy(each, target) for each in (trained.package, half))
    return [
        Goal(
            what=f"Swin on {len(trained.labels)} held-out digits: float32 {whole:.2f} %, "
            f"float16 {rounded:.2f} %; lost",
            measured=whole - rounded,
            unit="points",
            at_most=LARGEST_DROP,
        )
    ]
