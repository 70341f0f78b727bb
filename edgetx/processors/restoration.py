"""Pictures in, pictures out: upscaling, denoising, deblurring and the like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from edgetx.core import IOSpec, TensorSpec
from edgetx.errors import InputError
from edgetx.processors._settings import is_number, pick_input, settings
from edgetx.processors.tensors import numpy_dtype, summarise

if TYPE_CHECKING:
    import numpy as np

    from edgetx.images import Picture

CHANNELS = (1, 3, 4)
TILING = ("supported", "discouraged")

_LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601, the weights of Pillow's mode L."""


class ImageRestoration(msgspec.Struct, frozen=True):
    """A picture of any size -> `[1, channels, height, width]`, and `scale` times its size back.

    Attributes:
        scale: of the height and the width.
        channels, out_channels: 1 (grey), 3 (RGB) or 4 (RGB and alpha).
        value_range: what a white pixel is, e.g. 1.0 or 255.0.
        tile_multiple: origins and sides of tiles are multiples of this, so that attention windows stay where
            they are in the whole picture.
        halo: pixels of context that a tile has around the part that counts.
        tiling: `discouraged` where the model mixes the whole picture, so that tiles change the answer.
        input, output: tensor names; None where the model has just one.
        regions: the name of an int32 input `[1, height, width]` that numbers the picture's regions, or None.
    """

    kind: ClassVar[str] = "image-restoration"

    scale: int = 1
    channels: int = 3
    out_channels: int = 3
    value_range: float = 1.0
    tile_multiple: int = 1
    halo: int = 32
    tiling: str = "supported"
    input: str | None = None
    output: str | None = None
    regions: str | None = None

    def __post_init__(self) -> None:
        for name, minimum in (("scale", 1), ("tile_multiple", 1), ("halo", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
                raise InputError(f"{name}: expected an integer from {minimum}, got {value!r}")
        for name in ("channels", "out_channels"):
            if (value := getattr(self, name)) not in CHANNELS or isinstance(value, bool):
                raise InputError(f"{name}: expected one of {', '.join(map(str, CHANNELS))}, got {value!r}")
        if not is_number(self.value_range) or self.value_range <= 0:
            raise InputError(f"value_range: expected a positive number, got {self.value_range!r}")
        msgspec.structs.force_setattr(self, "value_range", float(self.value_range))
        if self.tiling not in TILING:
            raise InputError(f"tiling: expected one of {', '.join(TILING)}, got {self.tiling!r}")
        for name in ("input", "output", "regions"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise InputError(f"{name}: expected a name or null, got {value!r}")

    def preprocess(self, path: str, io: IOSpec) -> dict[str, Any]:
        """Read one picture, whole. Grey models get luma, colour models RGB; only 4-channel models get alpha.

        Returns:
            The picture `[1, channels, height, width]`, 0 to `value_range`, and a region map if it takes one.

        Raises:
            InputError: see `edgetx.images.read_picture`; also no such input.
        """
        from edgetx.images import read_picture

        pixels = self.pixels(read_picture(path))
        return self.feeds(pixels, self.region_map(pixels), io)

    def postprocess(self, outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """See `summarise`; `to_pixels` gives the picture."""
        return summarise(outputs)

    def to_dict(self) -> dict[str, Any]:
        """The settings; `type(self)(**to_dict())` gives an equal processor."""
        return settings(self)

    def pixels(self, picture: Picture) -> np.ndarray[Any, Any]:
        """The channels that the model takes, `[height, width, channels]`, uint8 or uint16."""
        import numpy as np

        pixels = picture.pixels
        if self.channels == 1 and pixels.shape[2] == 3:
            grey = np.tensordot(pixels, np.array(_LUMA, np.float32), axes=1)
            return np.rint(grey).astype(pixels.dtype)[..., None]
        if self.channels >= 3 and pixels.shape[2] == 1:
            pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        if self.channels == 4:
            white = np.iinfo(pixels.dtype).max
            alpha = np.full(pixels.shape[:2], 255, np.uint8) if picture.alpha is None else picture.alpha
            scaled = alpha.astype(pixels.dtype) * (white // 255)
            pixels = np.concatenate([pixels, scaled[..., None]], axis=2)
        return pixels

    def region_map(
        self, pixels: np.ndarray[Any, Any], mask: str | None = None
    ) -> np.ndarray[Any, Any] | None:
        """Int32 `[height, width]` from a mask file or, without one, from the picture; None without regions.

        Raises:
            InputError: the mask cannot be read, has another size, or the model takes no regions.
        """
        if self.regions is None:
            if mask is not None:
                raise InputError(f"the mask {mask} was given, but this model takes no regions; leave it out")
            return None
        from edgetx.processors.regions import region_map

        regions: np.ndarray[Any, Any] = region_map(pixels, mask)
        return regions

    def feeds(
        self, pixels: np.ndarray[Any, Any], regions: np.ndarray[Any, Any] | None, io: IOSpec
    ) -> dict[str, Any]:
        """One picture, or one tile of it, as the model's inputs.

        Args:
            pixels: `[height, width, channels]`, uint8 or uint16.
            regions: int32 `[height, width]` where the model takes regions.
            io: of the model.
        """
        import numpy as np

        spec = self.input_spec(io)
        white = np.float32(self.value_range / np.iinfo(pixels.dtype).max)
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]).astype(np.float32)
        planes *= white
        feeds: dict[str, Any] = {spec.name: planes.astype(numpy_dtype(spec.dtype), copy=False)}
        if self.regions is not None and regions is not None:
            target = pick_input(io, self.regions, self.kind)
            feeds[target.name] = np.ascontiguousarray(regions[None]).astype(target.dtype, copy=False)
        return feeds

    def input_spec(self, io: IOSpec) -> TensorSpec:
        """The input that takes the picture.

        Raises:
            InputError: there is none of that name, or it is no `[batch, channels, height, width]`.
        """
        spec = pick_input(io, self.input, self.kind)
        if len(spec.shape) != 4 or spec.shape[1] != self.channels:
            raise InputError(
                f"the {self.kind} processor fills [batch, {self.channels}, height, width]; "
                f"the model takes {spec}"
            )
        return spec

    def restored(self, outputs: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        """The output that is the picture: float32 `[batch, out_channels, height, width]`, white is 1.

        Raises:
            InputError: no such output, or another shape.
        """
        import numpy as np

        name = self.output if self.output is not None else next(iter(outputs), "")
        if name not in outputs:
            raise InputError(
                f"the model has no output {name!r} to make a picture of; it has {sorted(outputs)}"
            )
        planes = np.asarray(outputs[name])
        if planes.ndim != 4 or planes.shape[1] != self.out_channels:
            raise InputError(
                f"output {name!r} has shape {list(planes.shape)}; expected "
                f"[batch, {self.out_channels}, height, width]"
            )
        planes = planes.astype(np.float32, copy=False)
        return planes if self.value_range == 1.0 else planes / np.float32(self.value_range)

    def to_pixels(self, outputs: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        """The outputs of one run (batch 1) as uint8 `[height, width, out_channels]`.

        Raises:
            InputError: see `restored`; also another batch, or NaN.
        """
        planes = self.restored(outputs)
        if planes.shape[0] != 1:
            raise InputError(f"the output has a batch of {planes.shape[0]}; expected one picture")
        return to_bytes(planes[0])


def to_bytes(planes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Float `[channels, height, width]`, white is 1, clamped and rounded: uint8 `[height, width, channels]`.

    Raises:
        InputError: the planes hold NaN, which no pixel can show.
    """
    import numpy as np

    if np.isnan(np.min(planes, initial=0)):
        raise InputError("the restored picture holds NaN; run `edgetx verify` on the package")
    scaled = planes * np.float32(255)
    np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled)
    return np.ascontiguousarray(scaled.astype(np.uint8).transpose(1, 2, 0))
