"""Pictures of any size in and out of a restoration model: extended to what it takes, and cut again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgetx.core import IOSpec, SymbolRange, TensorSpec
from edgetx.processors import ImageRestoration

INPUT, OUTPUT = "image", "restored"
HALO = 32
"""Pixels of context around a tile, where no exporter knows better."""


Places = tuple[Tensor, ...]
"""Where the rows and columns of an extended picture come from, as `Extension.places` gives them."""


@dataclass(frozen=True)
class Extension:
    """How a picture is continued, below and to the right, to a size that a model takes.

    Attributes:
        multiple: of both sides.
        minimum: of both sides.
        square: both sides are as long as the longer one.
        beyond: a side that is a multiple already grows by another one.
        kind: `reflect` leaves the last pixel out, `mirror` repeats it, and both go on with the first pixel
            where the picture ends; `zeros` are added.
    """

    multiple: int = 1
    minimum: int = 1
    square: bool = False
    beyond: bool = False
    kind: Literal["reflect", "mirror", "zeros"] = "reflect"

    def __call__(self, image: Tensor, places: Places = ()) -> Tensor:
        """The whole picture, NCHW; `places`, where they are given, are those that `places` gave."""
        if self == WHOLE:
            return image
        if places:
            vertical, horizontal = places[0].unbind(0) if self.square else places
            if self.kind == "zeros":
                image = nn.functional.pad(image, (0, 1, 0, 1))
            return image.index_select(2, vertical.flatten()).index_select(3, horizontal.flatten())
        for axis, size in enumerate(self._sizes(image), 2):
            if not _equal(size, image.shape[axis]):
                positions = self._positions(image, axis, size)
                if self.kind == "zeros":
                    image = nn.functional.pad(image, (0, 0, 0, 1) if axis == 2 else (0, 1))
                image = image.index_select(axis, positions)
        return image

    def places(self, image: Tensor) -> Places:
        """Rows and columns of the extended picture as places in the picture, int64.

        The size of a picture that is extended to multiples of 8 is a long expression of its height, and
        PyTorch spends most of an export on arithmetic with such expressions. Given `[R, 8]` rows, it is 8R.

        Returns:
            `[R, multiple]` rows and `[C, multiple]` columns; of square pictures, both in one
            `[2, R, multiple]`; nothing where no picture is extended.
        """
        if self == WHOLE:
            return ()
        rows, columns = (
            self._positions(image, axis, size).reshape(-1, self.multiple)
            for axis, size in enumerate(self._sizes(image), 2)
        )
        return (torch.stack((rows, columns)),) if self.square else (rows, columns)

    def _sizes(self, image: Tensor) -> tuple[Any, Any]:
        rows, columns = (self._size(size) for size in image.shape[2:])
        if self.square:
            rows = columns = torch.sym_max(rows, columns)  # type: ignore[no-untyped-call]
        return rows, columns

    def _size(self, size: Any) -> Any:
        if self.minimum > 1:
            size = torch.sym_max(size, self.minimum)  # type: ignore[no-untyped-call]
        if self.beyond:
            return (size // self.multiple + 1) * self.multiple
        return size if self.multiple == 1 else (size + self.multiple - 1) // self.multiple * self.multiple

    def _positions(self, image: Tensor, axis: int, size: Any) -> Tensor:
        """To gather by: unlike `pad(mode="reflect")` that takes any size, also an unknown one."""
        length, position = image.shape[axis], torch.arange(size, device=image.device)
        if self.kind == "zeros":
            return position.clamp(max=length)
        if self.kind == "mirror":
            return torch.minimum(position, 2 * length - 1 - position).clamp(min=0)
        return (length - 1 - (position - (length - 1)).abs()).clamp(min=0)


WHOLE = Extension()
"""The picture as it is."""


def _equal(size: Any, other: Any) -> bool:
    """Whether both are known, and the same."""
    return isinstance(size, int) and isinstance(other, int) and size == other


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
        self.multiple_of = multiple_of
        self.extension = Extension(multiple_of, max(minimum, 1), square)

    def places(self, image: Tensor) -> Places:
        """See `Extension.places`: those of the model, where it extends pictures too, else of this."""
        return self._inner.places(self.extension(image)) if self._inner else self.extension.places(image)

    def forward(self, image: Tensor, places: Places = ()) -> Tensor:
        height, width = image.shape[-2:]
        if places and self._inner:
            out: Tensor = self.model(self.extension(image), places)
        else:
            out = self.model(self.extension(image, places))
        return crop(out, self.scale * height, self.scale * width)

    @property
    def _inner(self) -> Extension | None:
        inner = getattr(self.model, "extension", None)
        return inner if isinstance(inner, Extension) and inner != WHOLE else None

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
