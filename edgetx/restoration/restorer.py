"""One opened restoration package, and pictures through it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgetx import images, quality, tiling
from edgetx.benchmark.machine import peak_memory
from edgetx.core import SymbolRange, Target
from edgetx.errors import InputError
from edgetx.package import Package
from edgetx.processors import ImageRestoration
from edgetx.processors.restoration import to_bytes
from edgetx.restoration import memory
from edgetx.runtimes import load
from edgetx.tiling import Plan, Sides

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

SHARE = 0.6
"""Without a budget, a run may take this share of the memory that is available."""

UNMEASURED = 64 * 2**10
"""A picture that fits even if each of its pixels took so many bytes runs whole, without a measurement."""

Notify = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """How one picture was restored. Sizes are width and height in pixels, memory is of the whole process.

    Attributes:
        tiles: how many runs' worth of tiles; 1 is the whole picture.
        seam_psnr: in dB, how well neighbouring tiles agree in their overlaps; None without any.
        untiled_psnr: in dB, against the picture restored whole, both clamped but not rounded to 8 bits; None
            unless that was asked for.
        peak_bytes: None where the system does not tell.
        note: why the picture was tiled, where the user did not ask for it.
    """

    size: tuple[int, int]
    restored_size: tuple[int, int]
    tiles: int
    tile: tuple[int, int]
    batch: int
    halo: int
    blended: bool
    seconds: float
    peak_bytes: int | None
    seam_psnr: float | None = None
    untiled_psnr: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class Restored:
    """The picture, with the profile, EXIF and transparency of its source, and how it came about."""

    image: Image.Image
    report: Report


class Restorer:
    """A package for pictures; a context manager.

    Args:
        package: a restoration package or its folder.
        runtime, target: as in `edgetx.load`.
        tile: side of the tiles in pixels; by default the picture runs whole, or in tiles that fit the memory.
        halo: half of the tiles' least overlap; by default what the package says.
        batch: tiles per run.
        blend: mix the answers over the overlaps; else crop them at the middle.
        max_memory: bytes that this process may take at its peak.
        check_seams: also restore the picture whole and compare, where tiles were used.
        notify: is told before a measurement of memory, which takes seconds.

    Raises:
        InputError: the package restores no pictures, or a setting is out of range.
        UnavailableError: memory cannot be measured here and `max_memory` was given.
    """

    def __init__(
        self,
        package: Package | str | os.PathLike[str],
        *,
        runtime: str | None = None,
        target: Target | None = None,
        tile: int | None = None,
        halo: int | None = None,
        batch: int = 1,
        blend: bool = True,
        max_memory: int | None = None,
        check_seams: bool = False,
        notify: Notify | None = None,
    ) -> None:
        for name, value, least in (("tile", tile, 1), ("halo", halo, 0), ("batch", batch, 1)):
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; expected {least} or more")
        if tile is not None and max_memory is not None:
            raise InputError(
                "a tile size and a memory budget were given; the budget chooses the tiles: give one"
            )
        opened = package if isinstance(package, Package) else Package.open(package)
        processor = opened.processor
        if not isinstance(processor, ImageRestoration):
            kind = "none" if processor is None else processor.kind
            raise InputError(
                f"package {opened.path} restores no pictures: its processor is {kind}, expected "
                f"{ImageRestoration.kind}"
            )
        target = target or Target()
        if max_memory is not None and (reason := memory.why_not(target)) is not None:
            raise InputError(f"--max-memory cannot be kept: {reason}; choose --tile yourself")
        self._tile, self._blend, self._max_memory, self._check_seams = tile, blend, max_memory, check_seams
        self._target = target
        self.processor = processor
        self._session = load(opened, runtime=runtime, target=target)
        spec = processor.input_spec(self._session.io)
        fixed_batch = spec.shape[0]
        self._batch = fixed_batch if isinstance(fixed_batch, int) else batch
        self._fill = isinstance(fixed_batch, int)
        self._halo = processor.halo if halo is None else halo
        self._sides = [
            Sides(
                dim if isinstance(dim, int) else self._session.io.symbols.get(dim, SymbolRange()),
                processor.tile_multiple,
                self._halo,
            )
            for dim in spec.shape[2:]
        ]
        self._profile = memory.MemoryProfile(
            opened.path,
            runtime=runtime,
            target=target,
            ran_on=self._session.describe(),
            side=self._side,
            notify=notify,
        )

    def __enter__(self) -> Restorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the engine."""
        self._session.close()

    def describe(self) -> dict[str, str]:
        """What it runs on; see `Session.describe`."""
        return self._session.describe()

    def restore(
        self,
        source: str | os.PathLike[str] | Image.Image,
        *,
        mask: str | None = None,
        progress: Progress | None = None,
    ) -> Restored:
        """Restore one picture.

        Args:
            source: a file, or a Pillow image, which is not changed.
            mask: a file of region labels, for models that take regions.
            progress: is told how many tiles of how many are done.

        Raises:
            InputError: the picture or mask cannot be read, or no tile fits the budget.
        """
        import numpy as np

        picture = (
            images.read_picture(source)
            if isinstance(source, str | os.PathLike)
            else images.picture_of(source)
        )
        start = perf_counter()
        memory.reset_peak()
        processor, scale = self.processor, self.processor.scale
        if processor.channels == 1:
            picture = images.grey_in_srgb(picture)
        pixels = processor.pixels(picture)
        regions = processor.region_map(pixels, mask)
        height, width = pixels.shape[:2]
        plan, note = self._plan(height, width)
        canvas = np.empty((scale * height, scale * width, processor.out_channels), np.uint8)
        unrounded = (
            np.empty((processor.out_channels, *canvas.shape[:2]), np.float32) if self._check_seams else None
        )

        def feed(rows: slice, columns: slice) -> dict[str, Any]:
            part = None if regions is None else tiling.cut(regions, rows, columns)
            return processor.feeds(tiling.cut(pixels, rows, columns), part, self._session.io)

        def emit(top: int, left: int, block: np.ndarray[Any, Any]) -> None:
            canvas[top : top + block.shape[1], left : left + block.shape[2]] = to_bytes(block)
            if unrounded is not None:
                unrounded[:, top : top + block.shape[1], left : left + block.shape[2]] = block.clip(0, 1)

        seams = tiling.restore(self._run, feed, plan, emit, progress=progress)
        alpha = None if processor.out_channels == 4 else picture.alpha
        image = images.compose(canvas, alpha, picture)
        peak = peak_memory()
        seconds = perf_counter() - start
        untiled = None if unrounded is None else self._against_whole(feed, unrounded, height, width)
        return Restored(
            image,
            Report(
                size=(width, height),
                restored_size=(scale * width, scale * height),
                tiles=plan.tiles,
                tile=(plan.columns.tile, plan.rows.tile),
                batch=plan.batch,
                halo=self._halo,
                blended=plan.blend,
                seconds=seconds,
                peak_bytes=peak,
                seam_psnr=seams,
                untiled_psnr=untiled,
                note=note,
            ),
        )

    def _run(self, feeds: Any) -> np.ndarray[Any, Any]:
        return self.processor.restored(self._session.run(feeds))

    def _plan(self, height: int, width: int) -> tuple[Plan, str | None]:
        rows, columns = self._sides
        note = None
        if self._tile is not None:
            chosen: Any = rows.tiled(height, self._tile), columns.tiled(width, self._tile)
        else:
            whole = (rows.untiled(height), columns.untiled(width))
            most = math.inf if None in whole else whole[0].tile * whole[1].tile  # type: ignore[union-attr]
            limit = self._limit(height, width)
            if None not in whole and (limit is None or self._fits(int(most), limit)):
                chosen = whole
            elif limit is None:
                chosen = tuple(
                    axis or side.tiled(size, self._largest(side))
                    for axis, side, size in zip(whole, self._sides, (height, width), strict=True)
                )
            else:
                area = int(min(most, height * width * 4))
                least = rows.smallest * columns.smallest
                run = max(area // self._batch, least * self._batch)
                affordable = self._profile.pixels(limit, run) // self._batch
                found = tiling.best((height, width), rows, columns, affordable)
                if found is None:
                    needed = self._profile.growth(least, 2**62) + self._held(height, width)
                    raise InputError(
                        f"no tile of this {width}x{height} picture fits {memory.show_size(self._budget())}: "
                        f"the smallest, {columns.smallest}x{rows.smallest}, needs about "
                        f"{memory.show_size(needed * 1.05)}; give more memory, or a smaller --halo"
                    )
                chosen = found
                note = (
                    f"{width}x{height} in tiles of {chosen[1].tile}x{chosen[0].tile}: whole it would take "
                    f"more than {memory.show_size(self._budget())}"
                )
        plan = Plan(chosen[0], chosen[1], self.processor.scale, self._batch, self._blend, self._fill)
        return plan, note

    def _largest(self, side: Sides) -> int:
        """The largest tile side of a model that does not take the whole picture."""
        if isinstance(side.allowed, int):
            return side.allowed
        assert side.allowed.max is not None, "a side without limit takes the whole picture"
        return side.allowed.max // side.step * side.step

    def _budget(self) -> int:
        """Bytes that the process may take."""
        if self._max_memory is not None:
            return self._max_memory
        free = memory.available()
        return (memory.resident() or 0) + int(SHARE * (2**62 if free is None else free))

    def _limit(self, height: int, width: int) -> int | None:
        """Bytes that are left for one run; None where nobody counts."""
        if memory.why_not(self._target) is not None:
            return None
        return max(self._budget() - self._held(height, width), 0)

    def _held(self, height: int, width: int) -> int:
        """Bytes that the process holds beside a run: what it has now, and the picture that is made."""
        scale, channels = self.processor.scale, self.processor.out_channels
        # The canvas, the Pillow image made of it, a strip of float32 for blending a row of tiles, and
        # the unrounded picture where it is compared.
        pictures = scale * scale * channels * height * width * (6 if self._check_seams else 2)
        strip = 4 * channels * scale * scale * width * min(height, 256) if self._blend else 0
        return (memory.resident() or 0) + pictures + strip

    def _fits(self, pixels: int, limit: int) -> bool:
        """Whether a run of the whole picture stays below `limit`."""
        if self._max_memory is None and pixels * UNMEASURED <= limit:
            return True
        return self._profile.growth(pixels, limit) <= limit

    def _side(self, pixels: int) -> int:
        """The side of a square tile that the model takes, of about so many pixels."""
        rows, columns = self._sides
        for side in (rows, columns):
            if isinstance(side.allowed, int):
                return side.allowed
        step = math.lcm(rows.step, columns.step)
        allowed: Any = rows.allowed
        least = max(rows.smallest, columns.smallest)
        wanted = max(round(math.sqrt(pixels) / step) * step, -(-least // step) * step)
        return wanted if allowed.max is None else min(wanted, allowed.max // step * step)

    def _against_whole(
        self, feed: Callable[[slice, slice], dict[str, Any]], tiled: Any, height: int, width: int
    ) -> float | None:
        """PSNR in dB of the tiled picture against the one restored whole; None where that cannot be."""
        import numpy as np

        whole = [side.untiled(size) for side, size in zip(self._sides, (height, width), strict=True)]
        if None in whole:
            return None
        expected = np.empty_like(tiled)

        def emit(_top: int, _left: int, block: np.ndarray[Any, Any]) -> None:
            expected[...] = block.clip(0, 1)

        plan = Plan(whole[0], whole[1], self.processor.scale, self._batch, False, self._fill)  # type: ignore[arg-type]
        tiling.restore(self._run, feed, plan, emit)
        return quality.psnr(expected, tiled, data_range=1)


def restore(
    package: Package | str | os.PathLike[str],
    source: str | os.PathLike[str] | Image.Image,
    output: str | os.PathLike[str] | None = None,
    *,
    mask: str | None = None,
    force: bool = False,
    **settings: Any,
) -> Restored:
    """Restore one picture with a package; see `Restorer` for the settings.

    Args:
        output: also write the picture there; the format follows the suffix.
        force: replace an existing file.

    Raises:
        InputError: see `Restorer` and `edgetx.images.write_picture`.
    """
    with Restorer(package, **settings) as restorer:
        restored = restorer.restore(source, mask=mask)
    if output is not None:
        images.write_picture(restored.image, Path(output), force=force)
    return restored
