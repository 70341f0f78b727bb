"""Pictures of any size in and out of a restoration model: extended to what it takes, and cut again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgetx.core import IOSpec, SymbolRange, TensorSpec
from edgetx.processors import ImageRestoration

INPUT, OUTPUT = "image", "restored"
HALO = 32
"""Pixels of context around a tile, where no exporter knows better."""


class ImageModel(nn.Module):
    """A restoration model that takes pictures of any size, as spandrel's descriptors call it.

    A picture that is too small, or no multiple of what the model takes, is continued below and to the right
    by reflection, then by its last pixel; the answer is cut to `scale` times the picture.

    Args:
        model: `[B, channels, H, W]` to `[B, out_channels, scale·H, scale·W]`, values from 0 to 1.
        scale: of the height and width.
        channels, out_channels: 1 (grey), 3 (RGB) or 4 (RGB and alpha).
        minimum, multiple_of, square: the sizes that `model` takes.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        scale: int = 1,
        channels: int = 3,
        out_channels: int = 3,
        minimum: int = 1,
        multiple_of: int = 1,
        square: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.scale = scale
        self.channels = channels
        self.out_channels = out_channels
        self.minimum = max(minimum, 1)
        self.multiple_of = multiple_of
        self.square = square

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        rows, columns = (_at_least(size, self.minimum, self.multiple_of) for size in (height, width))
        if self.square:
            rows = columns = torch.sym_max(rows, columns)  # type: ignore[no-untyped-call]
        out: Tensor = self.model(extend(image, rows, columns))
        return crop(out, self.scale * height, self.scale * width)

    def io(self, size: int | None = None) -> IOSpec:
        """Pictures of any size in and out, or of `size` x `size`."""
        return image_io(self, self.channels, SymbolRange() if size is None else size)

    def processor(self, *, tile_multiple: int | None = None, halo: int = HALO) -> ImageRestoration:
        """What reads and writes the pictures; tiles are multiples of `tile_multiple` with `halo` around."""
        return ImageRestoration(
            scale=self.scale,
            channels=self.channels,
            out_channels=self.out_channels,
            tile_multiple=self.multiple_of if tile_multiple is None else tile_multiple,
            halo=halo,
            input=INPUT,
            output=OUTPUT,
        )


def _at_least(size: Any, minimum: int, multiple: int) -> Any:
    if minimum > 1:
        size = torch.sym_max(size, minimum)  # type: ignore[no-untyped-call]
    return size if multiple == 1 else (size + multiple - 1) // multiple * multiple


def extend(image: Tensor, rows: Any, columns: Any) -> Tensor:
    """NCHW, continued to `rows` x `columns` by reflection, and by its first pixel where that ends.

    Two gathers by computed positions: unlike `pad(mode="reflect")` they take any size, also an unknown one.
    """
    for axis, size in ((2, rows), (3, columns)):
        length = image.shape[axis]
        if isinstance(size, int) and isinstance(length, int) and size == length:
            continue
        last = length - 1
        position = last - (torch.arange(size, device=image.device) - last).abs()
        image = image.index_select(axis, position.clamp(min=0))
    return image


def to_multiple(image: Tensor, multiple: int) -> Tensor:
    """`extend` to the next multiple, as spandrel's `pad_to_multiple(mode="reflect")`."""
    height, width = image.shape[-2:]
    return extend(image, _at_least(height, 1, multiple), _at_least(width, 1, multiple))


def crop(image: Tensor, height: Any, width: Any) -> Tensor:
    """The top left `height` x `width` of NCHW; no node where that is known to be all of it."""
    sizes = (*image.shape[-2:], height, width)
    if all(isinstance(size, int) for size in sizes) and tuple(image.shape[-2:]) == (height, width):
        return image
    return image[..., :height, :width]


def image_io(model: Any, channels: int, size: SymbolRange | int) -> IOSpec:
    """Float32 pictures `image[batch, channels, height, width]` in, `restored` out, both sides of `size`.

    Args:
        model: its `scale` and `out_channels` say what comes out; by default 1 and `channels`. It is not run:
            some models of spandrel change themselves when they are.
    """
    symbols = {"batch": SymbolRange()}
    inputs: tuple[int | str, ...] = ("height", "width")
    outputs: tuple[int | str, ...] = (f"{OUTPUT}_height", f"{OUTPUT}_width")
    scale = getattr(model, "scale", 1)
    if isinstance(size, int):
        inputs, outputs = (size, size), (scale * size, scale * size)
    else:
        symbols |= {"height": size, "width": size}
        outputs = inputs if scale == 1 else outputs
    return IOSpec(
        (TensorSpec(INPUT, "float32", ("batch", channels, *inputs)),),
        (TensorSpec(OUTPUT, "float32", ("batch", getattr(model, "out_channels", channels), *outputs)),),
        symbols,
    )
