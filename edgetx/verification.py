"""How well a package agrees with PyTorch: by its golden cases anywhere, per module where torch is at hand.

`verify` replays the golden inputs that the package carries and holds the outputs against the ones PyTorch
gave at export; it needs the runtime and numpy only. `per_module` also exposes the graph's intermediate
values, runs the PyTorch model beside it and shows where the two begin to differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from edgetx import quality
from edgetx.core import OutputVerdict, Target, Verdict
from edgetx.errors import EdgetxError, InputError, UnavailableError
from edgetx.package import Package
from edgetx.processors import ImageRestoration
from edgetx.runtimes import load

if TYPE_CHECKING:
    import numpy as np

    from edgetx.core import Reference

TOLERANCE: Mapping[str, float] = {"float32": 1e-5, "float64": 1e-5, "float16": 1e-2, "bfloat16": 8e-2}
"""Largest accepted absolute error by dtype, for outputs of order 1; it grows with the largest value."""
IMAGE_TOLERANCE: Mapping[str, float] = {**TOLERANCE, "float32": 1e-4, "float64": 1e-4}
"""The same for outputs that are images, as a share of their value range; it does not grow beyond that."""


def verify(
    package: Package | str | Path,
    *,
    runtime: str | None = None,
    target: Target | None = None,
    stages: bool = False,
) -> Verdict:
    """Replay the golden inputs of `package` and compare every output with PyTorch's.

    Args:
        package: a Package or its folder.
        runtime: runtime id; by default the first one that can run the package.
        target: device, threads and so on; default CPU.
        stages: run the package's stages one after the other instead of the whole.

    Returns:
        The verdict. An engine that fails on a golden case gives a failed verdict with `error` set.

    Raises:
        PackageError: the package cannot be read.
        InputError: no such runtime, device or setting.
        UnavailableError: no runtime, or not the one asked for, can run it here.
    """
    package = package if isinstance(package, Package) else Package.open(package, digest="sha256")
    cases = package.golden()
    try:
        session = load(package, runtime=runtime, target=target, stages=stages)
    except (InputError, UnavailableError):  # of what was asked for, not of the package
        raise
    except EdgetxError as error:
        return Verdict(outputs=(), cases=len(cases), ran_on={}, error=str(error))
    with session:
        ran_on = session.describe()
        try:
            actual = [session.run(case.inputs) for case in cases]
        except EdgetxError as error:
            return Verdict(outputs=(), cases=len(cases), ran_on=ran_on, error=str(error))
    return compare(
        [case.outputs for case in cases],
        actual,
        tolerance=tolerance_of(package),
        ran_on=ran_on,
        images=images_of(package),
        sets=package.processor if isinstance(package.processor, Sets) else None,
    )


@runtime_checkable
class Sets(Protocol):
    """A processor whose outputs are sets: the order of rows means nothing where scores are equal."""

    def match(
        self, expected: Mapping[str, Any], actual: Mapping[str, Any], tolerance: float
    ) -> tuple[Mapping[str, Any], str | None]:
        """`actual` in the order of `expected`, and None or why rows have no counterpart."""


def tolerance_of(package: Package) -> float:
    """The largest accepted absolute error of outputs of order 1, by the package's precision.

    That of a quantised package is its own: what it showed when it was judged to be within its budget, with a
    margin (see `edgetx.quantize`).
    """
    quantization = package.manifest.quantization
    return TOLERANCE[package.manifest.precision] if quantization is None else quantization.tolerance


@dataclass(frozen=True, slots=True)
class ImageOutput:
    """An output that is a picture: the value of white, and the largest accepted absolute error."""

    value_range: float
    tolerance: float


def images_of(package: Package) -> dict[str, ImageOutput]:
    """The outputs that are pictures: the one of an image restoration package."""
    processor = package.processor
    if not isinstance(processor, ImageRestoration):
        return {}
    name = processor.output if processor.output is not None else package.io.outputs[0].name
    white, quantization = processor.value_range, package.manifest.quantization
    share = IMAGE_TOLERANCE[package.manifest.precision] if quantization is None else quantization.tolerance
    return {name: ImageOutput(white, white * share)}


def compare(
    expected: Sequence[Mapping[str, Any]],
    actual: Sequence[Mapping[str, Any]],
    *,
    tolerance: float,
    ran_on: Mapping[str, str],
    images: Mapping[str, ImageOutput] | None = None,
    sets: Sets | None = None,
) -> Verdict:
    """Judge `actual` against `expected`, case by case and output by output (the worst case counts).

    `images` names the outputs that are pictures: they are held to its tolerance, and get PSNR and SSIM.
    `sets` pairs the rows of the outputs before they are compared; rows without a counterpart are an error.
    """
    names = list(expected[0])
    error = None
    if sets is not None:
        matched = [sets.match(case, result, tolerance) for case, result in zip(expected, actual, strict=True)]
        actual = [result for result, _ in matched]
        error = next((f"case {index}: {why}" for index, (_, why) in enumerate(matched) if why), None)
    verdicts = []
    for name in names:
        pairs = [(case[name], result[name]) for case, result in zip(expected, actual, strict=True)]
        image = (images or {}).get(name)
        if image is None:
            errors = [measure(reference, result, tolerance) for reference, result in pairs]
        else:
            errors = [measure(reference, result, image.tolerance, grows=False) for reference, result in pairs]
        psnr, ssim = (None, None) if image is None else _likeness(pairs, image.value_range)
        worst = max(errors, key=lambda error: error.excess)
        verdicts.append(
            OutputVerdict(
                name=name,
                max_abs=max(error.max_abs for error in errors),
                max_rel=max(error.max_rel for error in errors),
                cosine=min(error.cosine for error in errors),
                tolerance=worst.tolerance,
                passed=all(error.passed for error in errors),
                psnr=psnr,
                ssim=ssim,
            )
        )
    return Verdict(outputs=tuple(verdicts), cases=len(expected), ran_on=ran_on, error=error)


def _likeness(
    pairs: Sequence[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]], value_range: float
) -> tuple[float | None, float | None]:
    """The lowest PSNR and SSIM over the cases of equal shape; NaN where an output holds NaN."""
    equal = [(reference, actual) for reference, actual in pairs if reference.shape == actual.shape]
    psnrs = [quality.psnr(reference, actual, data_range=value_range) for reference, actual in equal]
    ssims = [quality.ssim(reference, actual, data_range=value_range) for reference, actual in equal]
    return _lowest(psnrs), _lowest([ssim for ssim in ssims if ssim is not None])


def _lowest(values: Sequence[float]) -> float | None:
    return min(values, key=lambda value: value if value == value else float("-inf"), default=None)


@dataclass(frozen=True, slots=True)
class Difference:
    """Two arrays compared: `max_rel` is relative to the reference's largest magnitude."""

    max_abs: float
    max_rel: float
    cosine: float
    tolerance: float

    @property
    def excess(self) -> float:
        """How many tolerances the error is; NaN and shape mismatches are infinite."""
        return self.max_abs / self.tolerance if self.max_abs == self.max_abs else float("inf")

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.excess <= 1.0


def measure(
    reference: np.ndarray[Any, Any], actual: np.ndarray[Any, Any], tolerance: float, *, grows: bool = True
) -> Difference:
    """Compare `actual` with `reference` in float64.

    `tolerance` holds for values of order 1 and, if it `grows`, is multiplied with a larger largest reference
    value, as rounding errors are; tensors of integers and booleans must be equal.
    """
    import numpy as np

    exact = str(reference.dtype) not in TOLERANCE
    if reference.shape != actual.shape:
        return Difference(float("inf"), float("inf"), 0.0, tolerance)
    want, got = reference.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    if not want.size:
        return Difference(0.0, 0.0, 1.0, tolerance)
    largest = float(np.abs(want).max())
    max_abs = float(np.abs(want - got).max())
    norms = float(np.linalg.norm(want) * np.linalg.norm(got))
    return Difference(
        max_abs=max_abs,
        max_rel=max_abs / largest if largest else max_abs,
        cosine=float(want @ got) / norms if norms else float(max_abs == 0.0),
        tolerance=0.5 if exact else tolerance * max(1.0, largest) if grows else tolerance,
    )


@dataclass(frozen=True, slots=True)
class ModuleError:
    """How one PyTorch module's output compares with the value that the package computes for it."""

    name: str
    type: str
    max_abs: float
    max_rel: float
    cosine: float
    passed: bool


def per_module(package: Package | str | Path, reference: Reference | None = None) -> list[ModuleError]:
    """Compare every PyTorch module's output with the package's, in the order in which the modules run.

    Only modules whose output survives as a value of the graph are listed: what a rewrite replaced by an
    operator has no counterpart inside. The package runs on ONNX Runtime's CPU kernels with the same
    operator library as `verify`.

    Args:
        package: a Package or its folder.
        reference: the PyTorch model; by default it is loaded again from the package's source.

    Raises:
        SourceError: the source cannot be loaded again.
        UnavailableError: torch, onnx_ir or ONNX Runtime is not installed.
    """
    try:
        from edgetx import tracing
    except ImportError as error:
        raise UnavailableError(
            f"per-module verification needs PyTorch and onnx_ir ({error}); pip install edgetx[export,ort]"
        ) from error
    package = package if isinstance(package, Package) else Package.open(package)
    rows = []
    for traced in tracing.trace(package, reference):
        difference = measure(traced.expected, traced.actual, tolerance_of(package))
        rows.append(
            ModuleError(
                traced.name,
                traced.type,
                difference.max_abs,
                difference.max_rel,
                difference.cosine,
                difference.passed,
            )
        )
    return rows
