"""What the image restoration transformers have in common: convolutions around stages on NHWC tokens.

The modules here stand in for a library's in a rewritten copy. They hold its weights, work at any batch,
height and width, and trace under `torch.export` without a guard on any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from edgetx.core import Architecture, IOSpec, Processor, Rewrite, SymbolRange
from edgetx.exporters import _modules, generic
from edgetx.exporters._pictures import Extension, ImageModel, Places, crop, image_io
from edgetx.exporters._windowed import WindowAttention

OPERATORS = (WindowAttention,)


def to_tokens(x: Tensor) -> Tensor:
    """NCHW to NHWC."""
    return x.permute(0, 2, 3, 1)


def to_maps(x: Tensor) -> Tensor:
    """NHWC to NCHW."""
    return x.permute(0, 3, 1, 2)


class Stages(nn.Module):
    """A stage's blocks on NHWC, then its convolution, around a residual: SwinIR's RSTB and its heirs."""

    def __init__(self, blocks: Sequence[nn.Module], conv: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        tokens = x
        for block in self.blocks:
            tokens = block(tokens)
        return x + to_tokens(self.conv(to_maps(tokens)))


class Trunk(nn.Module):
    """Shallow features, transformer stages on NHWC, a convolution and residual, then `tail` to the picture.

    Args:
        first: convolution of the normalised picture, NCHW.
        body: NHWC to NHWC.
        after: convolution before the long residual, NCHW.
        tail: features (NCHW) to the picture; an `InputTail` also gets the normalised picture.
        multiple: of height and width, and of tiles' origins.
        extension: of the picture; by default to `multiple`, by reflection.
        mean, value_range: the model works on `(x - mean) · value_range`.
        scale, channels, out_channels: as `ImageModel`'s.
        halo: pixels around a tile that its answer depends on noticeably.
    """

    mean: Tensor | None

    def __init__(
        self,
        first: nn.Module,
        body: nn.Module,
        after: nn.Module,
        tail: nn.Module,
        *,
        multiple: int,
        scale: int,
        channels: int,
        out_channels: int,
        halo: int,
        mean: Tensor | None = None,
        value_range: float = 1.0,
        extension: Extension | None = None,
    ) -> None:
        super().__init__()
        self.first = first
        self.body = body
        self.after = after
        self.tail = tail
        self.multiple = multiple
        self.extension = Extension(multiple) if extension is None else extension
        self.scale = scale
        self.channels = channels
        self.out_channels = out_channels
        self.halo = halo
        self.value_range = value_range
        centred = mean is not None and bool(mean.any())
        self.register_buffer("mean", mean.detach().clone() if centred and mean is not None else None)

    def as_image_model(self) -> ImageModel:
        """The same for pictures of any size."""
        return ImageModel(self, scale=self.scale, channels=self.channels, out_channels=self.out_channels)

    def places(self, image: Tensor) -> Places:
        """See `Extension.places`."""
        return self.extension.places(image)

    def forward(self, image: Tensor, places: Places = ()) -> Tensor:
        height, width = image.shape[-2:]
        x = self.extension(image, places)
        if self.mean is not None:
            x = x - self.mean
        if self.value_range != 1.0:
            x = x * self.value_range
        features = self.first(x)
        deep = to_maps(self.body(to_tokens(features)))
        deep = self.after(deep) + features
        out = self.tail(deep, x, height, width) if isinstance(self.tail, InputTail) else self.tail(deep)
        if self.value_range != 1.0:
            out = out / self.value_range
        if self.mean is not None:
            out = out + self.mean
        return crop(out, self.scale * height, self.scale * width)


class InputTail(nn.Module):
    """Called with the features, the normalised picture as it was extended, and its own height and width."""


class ResidualTail(InputTail):
    """Denoisers: the last convolution gives what is added to the picture."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.last = last

    def forward(self, features: Tensor, picture: Tensor, _height: Any, _width: Any) -> Tensor:
        out: Tensor = picture + self.last(features)
        return out


class NearestTail(nn.Module):
    """`nearest+conv`: doubled by repetition and a convolution, once per entry of `ups`."""

    def __init__(self, before: nn.Module, ups: Sequence[nn.Module], hr: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.before = before
        self.ups = nn.ModuleList(ups)
        self.hr = hr
        self.last = last
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        for up in self.ups:
            x = self.activation(up(nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")))
        out: Tensor = self.last(self.activation(self.hr(x)))
        return out


def tail(model: Any) -> nn.Module:
    """The reconstruction of SwinIR's heirs, by their `upsampler`."""
    if model.upsampler == "pixelshuffle":
        return nn.Sequential(model.conv_before_upsample, model.upsample, model.conv_last)
    if model.upsampler == "pixelshuffledirect":
        upsample: nn.Module = model.upsample
        return upsample
    if model.upsampler == "nearest+conv":
        ups = [getattr(model, f"conv_up{index}") for index in (1, 2, 3) if hasattr(model, f"conv_up{index}")]
        return NearestTail(model.conv_before_upsample, ups, model.conv_hr, model.conv_last)
    return ResidualTail(model.conv_last)


class RestorationFamily(Architecture):
    """A family of restoration transformers: a table of whole models, each with what stands in for it."""

    models: ClassVar[Mapping[str, Callable[[Any], Trunk]]]
    """Class of a whole model -> its rewritten form."""

    def recognises(self, module: nn.Module) -> bool:
        return _modules.holds(module, self.models)

    def rewrite(self, module: nn.Module) -> Rewrite:
        copied, notes = _modules.replace(_modules.clone(module), self.models)
        replaced = tuple(name for name, inner in copied.named_modules() if isinstance(inner, OPERATORS))
        return Rewrite(copied, replaced, tuple(notes))

    def describe(self, module: nn.Module, example: Any | None = None) -> IOSpec:
        """See `Architecture.describe`; only a module around a model of this family needs an example."""
        rewritten = self.rewrite(module).module
        if isinstance(rewritten, ImageModel):
            return rewritten.io()
        if isinstance(rewritten, Trunk):
            # The library's own model reflects by less than the picture's size.
            return image_io(rewritten, rewritten.channels, SymbolRange(min=rewritten.multiple // 2 + 1))
        return generic.describe(rewritten, example)

    def processor(self, module: nn.Module) -> Processor | None:
        """`ImageRestoration`, with the model's scale, channels and tile geometry."""
        rewritten = self.rewrite(module).module
        if isinstance(rewritten, ImageModel) and isinstance(rewritten.model, Trunk):
            trunk = rewritten.model
        elif isinstance(rewritten, Trunk):
            trunk, rewritten = rewritten, rewritten.as_image_model()
        else:
            return None
        return rewritten.processor(tile_multiple=trunk.multiple, halo=trunk.halo)
