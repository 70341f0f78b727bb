"""`quantize`: its options; the work is in `_work`, which needs onnx_ir."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgetx.errors import InputError, UnavailableError
from edgetx.package import Package

PRECISIONS = ("int8", "fp8")
"""What `quantize` makes."""
CALIBRATIONS = ("minmax", "percentile", "entropy")
"""How the range of an activation is found."""


def _silent(_message: str) -> None:
    pass


def quantize(
    package: Package | str | Path,
    *,
    calib: str | Path,
    precision: str = "int8",
    budget: str | None = None,
    calibration: str = "percentile",
    limit: int | None = None,
    output: str | Path | None = None,
    force: bool = False,
    progress: Callable[[str], None] = _silent,
) -> Package:
    """Make a package whose matrix products with constant weights take 8-bit numbers, within a budget.

    Every second sample of `calib` decides: it gives the ranges of activations, the effect of every layer
    alone, and the choice of layers. The others judge the package, and their figures stand in its manifest.
    All is measured on ONNX Runtime's CPU provider. Weights are symmetric with a scale per output channel,
    activations symmetric with one scale. edgetx operators, convolutions and products of activations stay
    float32.

    Args:
        package: a float32 Package or its folder; it stays as it is.
        calib: a folder of pictures for the package's processor (pairs or a folder per class, where the budget
            needs the truth), or of `.npz` files for a package without one.
        precision: `int8`, or `fp8` (E4M3FN), which ONNX Runtime's CPU provider rounds to and multiplies in
            float32: right, and no faster.
        budget: `psnr>=-0.1`, `top1>=-0.5`, `top5>=-0.5` or `sqnr>=20`; see `METRICS`. By default the first
            that the data can judge.
        calibration: `percentile`, `minmax` or `entropy`.
        limit: only the first so many samples.
        output: the new package's folder; by default the old one's name with the precision before its suffix.
        force: replace an existing package.
        progress: called with one line per step.

    Returns:
        The package, which is within the budget on the judging samples.

    Raises:
        InputError: an option, the budget or the data do not fit; names the file.
        PackageError: the package is not float32, has stages, no golden cases or nothing to quantise, or
            `output` cannot be written or exists and `force` is not given.
        VerificationError: the budget cannot be held; says what came closest. Nothing is written.
        UnavailableError: onnx_ir or ONNX Runtime is not installed.
    """
    for what, value, accepted in (
        ("precision", precision, PRECISIONS),
        ("calibration", calibration, CALIBRATIONS),
    ):
        if value not in accepted:
            raise InputError(f"unknown {what} {value!r}; accepted: {', '.join(accepted)}")
    if limit is not None and limit < 2:
        raise InputError(f"limit is {limit}; accepted: 2 or more, since every second sample judges")
    try:
        import onnxruntime  # noqa: F401

        from edgetx.quantization import _work
    except ImportError as error:
        raise UnavailableError(
            f"quantising a package needs onnx_ir, onnx and ONNX Runtime ({error}); pip install "
            "edgetx[export,ort]"
        ) from error
    opened = package if isinstance(package, Package) else Package.open(package)
    return _work.quantize(
        opened, Path(calib), precision, budget, calibration, limit, output, force=force, progress=progress
    )
