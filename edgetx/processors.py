"""Numpy-only pre- and post-processing: a file in, tensors out, and back to an answer.

A processor is a frozen dataclass of plain settings; the manifest stores it as `{"kind": kind, **settings}`.
Pillow is imported only when an image is read.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from edgetx.core import DTYPES, IOSpec, Processor, SymbolRange, TensorSpec
from edgetx.errors import EdgetxError, InputError, UnavailableError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

logger = logging.getLogger(__name__)

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
CROP_MODES = ("center", "squash")
MAX_RESIZED_PIXELS = 2**27
"""Resizing never makes more pixels than this (400 MB): a 1x20000 image is an error instead."""


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of one of `edgetx.core.DTYPES`; bfloat16 comes from ml_dtypes.

    Raises:
        InputError: another name.
        UnavailableError: bfloat16 without ml_dtypes.
    """
    import numpy as np

    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise UnavailableError(
                "numpy has no bfloat16 of its own; pip install ml_dtypes to use bfloat16 tensors"
            ) from error
        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    if name not in DTYPES:
        raise InputError(f"unknown dtype {name!r}; accepted: {', '.join(DTYPES)}")
    return np.dtype(name)


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file as upright 8-bit RGB.

    EXIF orientation is applied. 16-bit grey is scaled to 8 bits. Alpha is dropped, and of an animation only
    the first frame is read, as timm and torchvision do; both are logged as warnings.

    Raises:
        InputError: no such file, not an image, damaged, too large, or values that are not 8- or 16-bit.
        UnavailableError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise UnavailableError("reading an image needs Pillow; pip install pillow") from error

    path = os.fspath(path)
    if not os.path.exists(path):
        raise InputError(f"image {path} does not exist; give the path of an image file")
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder; give the path of an image file")
    try:
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                logger.warning("%s has %d frames; only the first one is used", path, frames)
            image.load()
            upright = ImageOps.exif_transpose(image)
            return _to_rgb(upright, path)
    except EdgetxError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not an image that Pillow can read{_hint(path)}") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"image {path} is too large: {error}; scale it down first") from error
    except PermissionError as error:
        raise InputError(f"image {path} cannot be read: {error.strerror}; check its permissions") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ...
        raise InputError(f"image {path} is damaged or incomplete ({error}); get a fresh copy") from error


def _hint(path: str) -> str:
    with open(path, "rb") as file:
        start = file.read(40)
    if start.startswith(b"version https://git-lfs"):
        return ": it is a Git LFS pointer; run git lfs pull"
    return "; use a PNG, JPEG, WebP, BMP or TIFF file"


def _to_rgb(image: Image.Image, path: str) -> Image.Image:
    import numpy as np
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if image.mode == "F" or low < 0 or high > 65535:
            raise InputError(
                f"image {path} holds values from {low} to {high} in Pillow's mode {image.mode}; "
                "accepted: 8- and 16-bit images"
            )
        grey = (values.astype(np.uint32) * 255 + 32767) // 65535
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data and _alpha_minimum(image) < 255:
        logger.warning("%s is partly transparent; its transparency is ignored", path)
    return image.convert("RGB")


def _alpha_minimum(image: Image.Image) -> float:
    return float(image.convert("RGBA").getchannel("A").getextrema()[0])  # type: ignore[arg-type]


def summarise(outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, dtype, shape, min, max, mean and standard deviation of every output, JSON-serialisable."""
    import numpy as np

    summary = []
    for name, output in outputs.items():
        values = np.asarray(output)
        entry: dict[str, Any] = {"output": name, "dtype": str(values.dtype), "shape": list(values.shape)}
        if values.size:
            wide = values.astype(np.float64)
            statistics = {"min": wide.min(), "max": wide.max(), "mean": wide.mean(), "std": wide.std()}
            for key, number in statistics.items():
                entry[key] = float(number) if math.isfinite(number) else None
        summary.append(entry)
    return summary


def _pick_input(io: IOSpec, name: str | None, kind: str) -> TensorSpec:
    if name is None and len(io.inputs) == 1:
        return io.inputs[0]
    for spec in io.inputs:
        if spec.name == name:
            return spec
    raise InputError(
        f"the {kind} processor fills the input {name!r}; the model takes {'; '.join(map(str, io.inputs))}"
    )


@dataclass(frozen=True)
class _ImageProcessor:
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
            if (
                not isinstance(value, (list, tuple))
                or len(value) != length
                or not all(map(_is_number, value))
            ):
                raise InputError(f"{name}: expected {length} numbers, got {value!r}")
            object.__setattr__(self, name, tuple(value))
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
        if not _is_number(self.crop_pct) or not 0 < self.crop_pct <= 1:
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
        spec = _pick_input(io, self.input, self.kind)
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
            logger.info("%s: %dx%d resized to %dx%d", path, image.width, image.height, width, height)
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
        return _settings(self)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


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


def _settings(processor: Any) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in asdict(processor).items()
    }


@dataclass(frozen=True)
class ImageClassification(_ImageProcessor):
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
            object.__setattr__(self, "labels", tuple(self.labels))
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


@dataclass(frozen=True)
class ImageFeatures(_ImageProcessor):
    """`_ImageProcessor`, then shapes and statistics of the outputs: backbones and feature extractors."""

    kind: ClassVar[str] = "image-features"

    def postprocess(self, outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """See `summarise`."""
        return summarise(outputs)


@dataclass(frozen=True)
class Tensors:
    """Raw arrays: an `.npy` file for a model of one input, or an `.npz` file with one array per input."""

    kind: ClassVar[str] = "tensors"

    def preprocess(self, path: str, io: IOSpec) -> dict[str, Any]:
        """Read the feeds as they are; `Session.run` checks dtype and shape.

        Raises:
            InputError: no such file, not .npy or .npz, pickled objects, or one array for several inputs.
        """
        import numpy as np

        if not os.path.isfile(path):
            raise InputError(f"{path} is not a file; give an .npy or .npz file")
        try:
            loaded = np.load(path, allow_pickle=False)
            feeds = {name: loaded[name] for name in loaded} if hasattr(loaded, "files") else None
        except Exception as error:  # numpy raises ValueError, EOFError, OSError, zipfile.BadZipFile, ...
            raise InputError(f"{path} cannot be read as .npy or .npz ({error})") from error
        if feeds is None:
            if len(io.inputs) != 1:
                raise InputError(
                    f"{path} holds one array; the model takes {'; '.join(map(str, io.inputs))}: "
                    "give an .npz file with one array per input"
                )
            feeds = {io.inputs[0].name: loaded}
        dtypes = {spec.name: spec.dtype for spec in io.inputs}
        return {name: restore_dtype(array, dtypes.get(name)) for name, array in feeds.items()}

    def postprocess(self, outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """See `summarise`."""
        return summarise(outputs)

    def to_dict(self) -> dict[str, Any]:
        """No settings."""
        return {}


def restore_dtype(array: np.ndarray[Any, Any], dtype: str | None) -> np.ndarray[Any, Any]:
    """Numpy writes bfloat16 as raw 2-byte records: view such an array as bfloat16 where that is expected."""
    if dtype == "bfloat16" and array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return array.view(numpy_dtype(dtype))
    return array


PROCESSORS: Mapping[str, type[Processor]] = {
    ImageClassification.kind: ImageClassification,
    ImageFeatures.kind: ImageFeatures,
    Tensors.kind: Tensors,
}


def to_dict(processor: Processor) -> dict[str, Any]:
    """`{"kind": kind, **settings}`, JSON-serialisable: the form that the manifest stores."""
    return {"kind": processor.kind, **processor.to_dict()}


def from_dict(stored: Mapping[str, Any]) -> Processor:
    """The processor that `to_dict` stored.

    Raises:
        InputError: an unknown kind, an unknown or missing setting, or a value that does not fit; the message
            starts with the setting's name.
    """
    settings = dict(stored)
    kind = settings.pop("kind", None)
    if not isinstance(kind, str) or kind not in PROCESSORS:
        raise InputError(f"kind: expected one of {', '.join(PROCESSORS)}, got {kind!r}")
    cls: Any = PROCESSORS[kind]
    known = [field.name for field in fields(cls)]
    if unknown := [name for name in settings if name not in known]:
        raise InputError(f"{unknown[0]}: not a setting of {kind}; it has {', '.join(known) or 'none'}")
    try:
        processor: Processor = cls(**settings)
    except TypeError as error:
        raise InputError(f"kind: {kind} cannot be made from {sorted(settings)}: {error}") from error
    return processor
