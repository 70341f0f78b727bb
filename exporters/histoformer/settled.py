"""Pictures on which a Histoformer has an answer that float32 settles, to verify it with.

The network is not continuous. Where two values that are to be sorted lie closer than rounding errors, their
order is chance, and with it where each one's answer goes. Values with a relative error e have about n·n·e
such neighbours among n, and swapping two of them in the attention's sort changes its logits by about 1/n: one
block turns e into its root, whatever n is. Every engine, and PyTorch itself in another memory layout, so
gives an answer of its own to a large picture; only a picture without such neighbours tells a right graph from
a wrong one. In float64 they are half a billion times as rare: there the rewritten copy is the model at every
size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from edgetx.errors import ExportError

Pictures = np.ndarray[Any, np.dtype[np.float32]]

MOVE = 2.0**-21
"""By how much of itself each value is moved, four times float32's resolution: what a few operations round."""
DRAWS = 4
SETTLED = 1e-5
"""Largest change of a settled answer, of a value range of 1."""

SIZES = ((24, 24, 2), (16, 16, 4), (8, 16, 4), (7, 6, 64), (8, 8, 64))
"""Height, width and how many pictures are tried: large ones are settled for small networks alone."""


def change(module: nn.Module, picture: Pictures) -> Pictures:
    """How the answer to `picture` [3, H, W] changes, `[DRAWS, 3, H, W]`, when its values move by `MOVE`."""
    generator = torch.Generator().manual_seed(0)
    x = torch.from_numpy(np.ascontiguousarray(picture))[None]
    moves = 2 * torch.rand(DRAWS, *picture.shape, generator=generator) - 1
    with torch.inference_mode():
        changed: Pictures = (module(x * (1 + MOVE * moves)) - module(x)).numpy()
    return changed


def is_settled(module: nn.Module, picture: Pictures) -> bool:
    """Whether `change` is at most `SETTLED`."""
    return bool(np.abs(change(module, picture)).max() <= SETTLED)


def note(changed: Pictures, chosen: Sequence[Pictures]) -> str:
    """What verification on `chosen` says and what it does not, with the `change` of a picture measured."""
    psnr = -10 * np.log10(max(float(np.square(changed.astype(np.float64)).mean()), 1e-30))
    sizes = ", ".join("x".join(map(str, (len(each), *each.shape[-2:]))) for each in chosen)
    height, width = changed.shape[-2:]
    return (
        "Histoformer sorts pixels, so that a rounding error which swaps two of them moves the answer: when "
        f"the values of a picture of {height}x{width} change by at most {MOVE:.0e} of themselves, PyTorch's "
        f"own answer changes by up to {np.abs(changed).max():.1e} (PSNR {psnr:.1f} dB); no other engine can "
        f"be held to less. Verified where it changes by at most {SETTLED:.0e}, on thumbnails of {sizes}"
    )


def choose(module: nn.Module, pictures: Sequence[Pictures]) -> list[Pictures]:
    """Thumbnails `[B, 3, h, w]` of `pictures` `[B, 3, H, W]` that `module` settles, one of each of `SIZES`.

    A size of which none is found is left out; of the last one there is a pair too, as one batch. The same
    arguments give the same thumbnails.

    Raises:
        ExportError: none of the pictures that were tried is settled.
    """
    chosen: list[Pictures] = []
    for height, width, tries in SIZES:
        wanted = 3 if (height, width) == SIZES[-1][:2] else 1
        found: list[Pictures] = []
        for _, thumbnail in zip(range(tries), _thumbnails(pictures, height, width), strict=False):
            if is_settled(module, thumbnail):
                found.append(thumbnail)
                if len(found) == wanted:
                    break
        if found:
            chosen.append(found[0][None])
        if len(found) > 2:
            chosen.append(np.stack(found[1:]))
    if not chosen:
        height, width, tries = SIZES[-1]
        raise ExportError(
            f"Histoformer cannot be verified: of {tries} thumbnails of {height}x{width} float32 settles none "
            "(what is sorted differs by less than rounding errors); give other photographs with detail in "
            f"them, at least {height}x{width}: --image FILE"
        )
    return chosen


def _thumbnails(pictures: Sequence[Pictures], height: int, width: int) -> Iterator[Pictures]:
    """Every n-th row and column, the largest n that leaves enough, from seeded places."""
    rng = np.random.default_rng(0)
    whole = [one for batch in pictures for one in batch if one.shape[1] >= height and one.shape[2] >= width]
    while whole:
        picture = whole[rng.integers(len(whole))]
        step = min(picture.shape[1] // height, picture.shape[2] // width)
        top = rng.integers(picture.shape[1] - (height - 1) * step)
        left = rng.integers(picture.shape[2] - (width - 1) * step)
        yield picture[:, top::step, left::step][:, :height, :width]
