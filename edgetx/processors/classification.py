"""Photographs in, classes or features out: resized, cropped and normalised as the models were trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from edgetx.core import IOSpec, SymbolRange, TensorSpec
from edgetx.errors import InputError
from edgetx.processors._settings import is_number, pick_input, settings
from edgetx.processors.tensors import numpy_dtype, summarise

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
CROP_MODES = ("center", "squash")
MAX_RESIZED_PIXELS = 2**27
"""Resizing never makes more pixels than this (400 MB): a 1x20000 image is an error instead."""


class _ImageProcessor(msgspec.Struct, frozen=True):
    """An RGB image file -> one float tensor `[1, 3, height, width]`, as timm's evaluation transform does.

    Attributes:
        size: height and width of the tensor.
        mean, std: subtracted and divided per channel, after scaling to [0, 1].
        interpolation: one of `INTERPOLATIONS`, with Pillow's anti-aliasing.
        crop_pct: the image is resized to `floor(size / crop_pct)` before the centre crop.
        crop_mode: `center` resizes the shorter side and keeps the aspect ratio; `squash` resizes both sides.
        resize_size: in mode `center`, the shorter side's size before the crop, instead of the one that
            `crop_pct` gives: torchvision's and transformers' way to state it.
        native_size: keep the image's own size, rounded to the nearest height and width that the model's
            symbols allow; `size`, `crop_pct` and `crop_mode` then apply only to fixed dimensions.
        input: the model's input; None where it has just one.
    """

    kind: ClassVar[str]

    size: tuple[int, int]
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    resize_size: int | None = None
    native_size: bool = False
    input: str | None = None

    def __post_init__(self) -> None:
        for name, length in (("size", 2), ("mean", 3), ("std", 3)):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or len(value) != length or not all(map(is_number, value)):
                raise InputError(f"{name}: expected {length} numbers, got {value!r}")
            msgspec.structs.force_setattr(self, name, tuple(value))
        if not all(isinstance(side, int) and side > 0 for side in self.size):
            raise InputError(f"size: expected two positive integers, got {self.size!r}")
        if not all(deviation > 0 for deviation in self.std):
            raise InputError(f"std: expected positive numbers, got {self.std!r}")
        if self.interpolation not in INTERPOLATIONS:
            raise InputError(
                f"interpolation: expected one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}"
            )
        if self.crop_mode not in CROP_MODES:
            raise InputError(f"crop_mode: expected one of {', '.join(CROP_MODES)}, got {self.crop_mode!r}")
        if not is_number(self.crop_pct) or not 0 < self.crop_pct <= 1:
            raise InputError(f"crop_pct: expected a number in (0, 1], got {self.crop_pct!r}")
        if self.resize_size is not None and (not isinstance(self.resize_size, int) or self.resize_size < 1):
            raise InputError(f"resize_size: expected a positive integer or null, got {self.resize_size!r}")
        if not isinstance(self.native_size, bool):
            raise InputError(f"native_size: expected true or false, got {self.native_size!r}")
        if self.input is not None and not isinstance(self.input, str):
            raise InputError(f"input: expected a name or null, got {self.input!r}")

    def preprocess(self, path: str, io: IOSpec) -> dict[str, Any]:
        """Read one image file.

        Returns:
            One float tensor `[1, 3, height, width]` of the dtype that the model takes.

        Raises:
            InputError: see `load_image`; also no such input, or an image too narrow to resize.
        """
        from edgetx.images import load_image

        spec = pick_input(io, self.input, self.kind)
        image = load_image(path)
        if self.native_size and len(spec.shape) == 4:
            image = self._resize_to_allowed(image, spec, io, path)
        else:
            image = self._resize_and_crop(image, path)
        return {spec.name: self._normalise(image).astype(numpy_dtype(spec.dtype), copy=False)}

    def _resize_to_allowed(self, image: Image.Image, spec: TensorSpec, io: IOSpec, path: str) -> Image.Image:
        sides = []
        for side, dim, fixed in zip((image.height, image.width), spec.shape[2:], self.size, strict=True):
            if isinstance(dim, str):
                sides.append(_nearest_allowed(side, io.symbols.get(dim, SymbolRange())))
            else:
                sides.append(fixed)
        height, width = sides
        if (height, width) != (image.height, image.width):
            import logging

            logging.getLogger(__name__).info(
                "%s: %dx%d resized to %dx%d", path, image.width, image.height, width, height
            )
        return self._resize(image, height, width, path)

    def _resize_and_crop(self, image: Image.Image, path: str) -> Image.Image:
        height, width = (math.floor(side / self.crop_pct) for side in self.size)
        if self.crop_mode == "center":
            if self.resize_size is not None:
                height = width = self.resize_size
            if height == width:
                # torchvision's Resize truncates the longer side; timm rounds for targets that are not square.
                shorter, longer = sorted(image.size)
                resized = int(height * longer / shorter)
                height, width = (height, resized) if image.width > image.height else (resized, height)
            else:
                ratio = min(image.height / height, image.width / width)
                height, width = round(image.height / ratio), round(image.width / ratio)
        return _centre_crop(self._resize(image, height, width, path), self.size)

    def _resize(self, image: Image.Image, height: int, width: int, path: str) -> Image.Image:
        from PIL import Image

        if (height, width) == (image.height, image.width):
            return image
        if height * width > MAX_RESIZED_PIXELS:
            raise InputError(
                f"image {path} is {image.width}x{image.height}; keeping that aspect ratio would need "
                f"{width}x{height} pixels; crop it first"
            )
        return image.resize((width, height), Image.Resampling[self.interpolation.upper()])

    def _normalise(self, image: Image.Image) -> np.ndarray[Any, np.dtype[Any]]:
        import numpy as np

        pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)[None]
        mean = np.array(self.mean, np.float32).reshape(3, 1, 1)
        std = np.array(self.std, np.float32).reshape(3, 1, 1)
        return np.ascontiguousarray((pixels / np.float32(255) - mean) / std)

    def to_dict(self) -> dict[str, Any]:
        """The settings; `type(self)(**to_dict())` gives an equal processor."""
        return settings(self)


def _nearest_allowed(size: int, allowed: SymbolRange) -> int:
    lowest = -(-allowed.min // allowed.step) * allowed.step
    nearest = max((size + allowed.step // 2) // allowed.step * allowed.step, lowest)
    return nearest if allowed.max is None else min(nearest, allowed.max // allowed.step * allowed.step)


def _centre_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Torchvision's CenterCrop: an image that is smaller on a side is first padded with black."""
    height, width = size
    if image.height < height or image.width < width:
        left, top = max((width - image.width) // 2, 0), max((height - image.height) // 2, 0)
        right = max((width - image.width + 1) // 2, 0)
        bottom = max((height - image.height + 1) // 2, 0)
        image = image.crop((-left, -top, image.width + right, image.height + bottom))
    top, left = round((image.height - height) / 2.0), round((image.width - width) / 2.0)
    return image.crop((left, top, left + width, top + height))


class ImageClassification(_ImageProcessor, frozen=True):
    """`_ImageProcessor`, then the most probable classes of logits `[1, classes]`.

    Attributes:
        labels: one name per class, or None.
        top_k: how many classes the answer has.
        output: the output that holds the logits; None for the first one.
    """

    kind: ClassVar[str] = "image-classification"

    labels: tuple[str, ...] | None = None
    top_k: int = 5
    output: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels is not None:
            if not isinstance(self.labels, (list, tuple)):
                raise InputError(f"labels: expected a list of names or null, got {self.labels!r}")
            if not all(isinstance(label, str) for label in self.labels):
                raise InputError("labels: expected only names; some entries are not strings")
            msgspec.structs.force_setattr(self, "labels", tuple(self.labels))
        if not isinstance(self.top_k, int) or isinstance(self.top_k, bool) or self.top_k < 1:
            raise InputError(f"top_k: expected a positive integer, got {self.top_k!r}")

    def postprocess(self, outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The `top_k` classes by softmax: `[{"label", "index", "probability"}, ...]`, most probable first.

        Raises:
            InputError: no such output, another shape than `[1, classes]`, NaN, or labels of another number.
        """
        import numpy as np

        name = self.output if self.output is not None else next(iter(outputs), "")
        if name not in outputs:
            raise InputError(f"the model has no output {name!r} to classify by; it has {sorted(outputs)}")
        logits = np.asarray(outputs[name]).astype(np.float64)
        if logits.ndim != 2 or logits.shape[0] != 1 or not logits.shape[1]:
            raise InputError(f"output {name!r} has shape {list(logits.shape)}; expected logits [1, classes]")
        logits = logits[0]
        if self.labels is not None and len(self.labels) != len(logits):
            raise InputError(
                f"output {name!r} has {len(logits)} classes and the package has {len(self.labels)} labels; "
                "export again with one label per class, or with none"
            )
        if np.isnan(logits).any():
            raise InputError(f"output {name!r} holds NaN; run `edgetx verify` on the package")
        shifted = np.exp(logits - logits.max())
        probabilities = shifted / shifted.sum()
        order = np.argsort(-logits, kind="stable")[: self.top_k]
        return [
            {
                "label": None if self.labels is None else self.labels[index],
                "index": int(index),
                "probability": float(probabilities[index]),
            }
            for index in order
        ]


class ImageFeatures(_ImageProcessor, frozen=True):
    """`_ImageProcessor`, then shapes and statistics of the outputs: backbones and feature extractors."""

    kind: ClassVar[str] = "image-features"

    def postprocess(self, outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """See `summarise`."""
        return summarise(outputs)
