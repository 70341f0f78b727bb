"""Restored pictures against the true ones, as publications on super-resolution measure them.

Outputs are clamped and rounded to 8 bits, `scale` pixels are cut from each side (none for scale 1), and PSNR
and SSIM are those of the luma (`edgetx.quality.luma`); PSNR over red, green and blue stands beside them. Grey
models are measured on grey.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgetx import quality
from edgetx.dataset.folders import Pair
from edgetx.dataset.pytorch import Run
from edgetx.errors import EdgetxError, InputError
from edgetx.processors import ImageRestoration, load_image

if TYPE_CHECKING:
    import numpy as np

    from edgetx.core import IOSpec


@dataclass(frozen=True, slots=True)
class Quality:
    """PSNR in dB and SSIM of one restored picture, or their means.

    Attributes:
        psnr: of the luma, or of grey.
        psnr_rgb: of all channels; None for grey.
        ssim: of the luma, or of grey; None where a side is shorter than SSIM's window.
    """

    psnr: float
    psnr_rgb: float | None
    ssim: float | None


@dataclass(frozen=True, slots=True)
class Picture:
    """One pair; `difference` is the package's PSNR minus PyTorch's, `error` says why something is missing."""

    name: str
    package: Quality | None = None
    pytorch: Quality | None = None
    difference: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Restoration:
    """Every picture, and the means over those that all sides restored."""

    task: str
    scale: int
    pictures: tuple[Picture, ...]
    package: Quality | None
    pytorch: Quality | None
    difference: float | None
    notes: tuple[str, ...]

    @property
    def failed(self) -> tuple[Picture, ...]:
        """The pictures that could not be measured."""
        return tuple(picture for picture in self.pictures if picture.error is not None)

    def worse(self, max_drop: float) -> tuple[Picture, ...]:
        """The pictures on which the package is more than `max_drop` dB below PyTorch."""
        return tuple(
            picture
            for picture in self.pictures
            if picture.difference is not None and picture.difference < -max_drop
        )


class Bench:
    """Measures pairs with a package's processor; `run` and `pytorch` take the same feeds."""

    def __init__(self, processor: ImageRestoration, io: IOSpec, run: Run, pytorch: Run | None) -> None:
        self._processor, self._io, self._run, self._pytorch = processor, io, run, pytorch

    def measure(self, pair: Pair) -> Picture:
        """One pair; what goes wrong with its files or models becomes its `error`."""
        ours = theirs = None
        try:
            feeds = self._processor.preprocess(str(pair.low), self._io)
            ours = self._quality(self._run(feeds), pair)
            if self._pytorch is not None:
                theirs = self._quality(self._pytorch(feeds), pair)
        except EdgetxError as error:
            return Picture(pair.name, ours, theirs, error=str(error))
        return Picture(pair.name, ours, theirs, None if theirs is None else _difference(ours, theirs))

    def _quality(self, outputs: dict[str, Any], pair: Pair) -> Quality:
        restored = self._processor.to_pixels(outputs)[..., :3].transpose(2, 0, 1)
        return compare(restored, _planes(pair, len(restored)), self._processor.scale, pair)


def _planes(pair: Pair, channels: int) -> np.ndarray[Any, Any]:
    import numpy as np

    image = load_image(pair.high)
    pixels = np.asarray(image.convert("L") if channels == 1 else image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def compare(restored: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], scale: int, pair: Pair) -> Quality:
    """Compare two uint8 pictures `[1 or 3, H, W]`; a truth that is less than `scale` pixels larger is cut.

    Raises:
        InputError: other sizes, or so small that nothing is left inside the border.
    """
    height, width = restored.shape[1:]
    if not all(0 <= own - got < scale for own, got in zip(truth.shape[1:], (height, width), strict=True)):
        raise InputError(
            f"{pair.high} is {truth.shape[2]}x{truth.shape[1]}, but {pair.low} at scale {scale} becomes "
            f"{width}x{height}; give pairs that belong together"
        )
    border = scale if scale > 1 else 0
    if min(height, width) <= 2 * border:
        raise InputError(f"{pair.high} has no pixels inside the border of {border}; leave it out")
    got, want = (
        quality.without_border(planes, border).astype("float64")
        for planes in (restored, truth[:, :height, :width])
    )
    colour = len(got) == 3
    got_y, want_y = (quality.luma(got), quality.luma(want)) if colour else (got, want)
    return Quality(
        psnr=quality.psnr(want_y, got_y, data_range=255.0),
        psnr_rgb=quality.psnr(want, got, data_range=255.0) if colour else None,
        ssim=quality.ssim(want_y, got_y, data_range=255.0),
    )


def _difference(package: Quality, pytorch: Quality) -> float:
    return 0.0 if package.psnr == pytorch.psnr else package.psnr - pytorch.psnr  # both may be infinite


def summarise(scale: int, pictures: Sequence[Picture], notes: Sequence[str]) -> Restoration:
    """The report on measured pictures."""
    complete = [picture for picture in pictures if picture.error is None]
    ours = _mean([picture.package for picture in complete])
    theirs = _mean([picture.pytorch for picture in complete])
    return Restoration(
        task="restoration",
        scale=scale,
        pictures=tuple(pictures),
        package=ours,
        pytorch=theirs,
        difference=None if ours is None or theirs is None else _difference(ours, theirs),
        notes=tuple(notes),
    )


def _mean(qualities: Sequence[Quality | None]) -> Quality | None:
    present = [each for each in qualities if each is not None]
    if not present:
        return None

    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return math.fsum(known) / len(known) if known else None

    psnr = mean([each.psnr for each in present])
    assert psnr is not None  # there is one per picture
    return Quality(psnr, mean([each.psnr_rgb for each in present]), mean([each.ssim for each in present]))
