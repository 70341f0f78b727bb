"""How well a package's outputs agree with PyTorch's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OutputVerdict:
    """How one output compares with the reference over all golden cases (largest error, lowest cosine).

    Attributes:
        psnr: lowest PSNR in dB of an output that is an image; infinite where all are equal.
        ssim: lowest SSIM of an output that is an image; None where a side is shorter than SSIM's window.
    """

    name: str
    max_abs: float
    max_rel: float
    cosine: float
    tolerance: float
    passed: bool
    psnr: float | None = None
    ssim: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Passed or not, per output, with the tolerance that was used and on what it ran."""

    outputs: tuple[OutputVerdict, ...]
    cases: int
    ran_on: Mapping[str, str]
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every output of every case is within tolerance and nothing failed to run."""
        return self.error is None and bool(self.outputs) and all(output.passed for output in self.outputs)

    @property
    def max_abs(self) -> float:
        """The largest absolute error over all outputs."""
        return max((output.max_abs for output in self.outputs), default=float("nan"))
