"""Picture files: read upright with what goes beside the pixels, and written without losing any of it.

Pillow is imported only when a picture is read or written.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetx.errors import EdgetxError, InputError, UnavailableError
from edgetx.files import writing

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

logger = logging.getLogger(__name__)

READABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm")
"""Suffixes by which pictures are found in a folder."""

_FORMATS: dict[str, tuple[str, int, dict[str, Any]]] = {
    ".png": ("PNG", 2**31 - 1, {}),
    ".jpg": ("JPEG", 65535, {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", 65535, {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", 16383, {"quality": 95}),
    ".tif": ("TIFF", 2**31 - 1, {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", 2**31 - 1, {"compression": "tiff_adobe_deflate"}),
}
"""Suffix -> Pillow's format, its longest side, its options."""

WRITABLE = tuple(_FORMATS)
_ORIENTATION, _EXIF_IFD, _PIXEL_WIDTH, _PIXEL_HEIGHT = 0x0112, 0x8769, 0xA002, 0xA003
_TIFF_STRUCTURE = frozenset(
    (254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 330, 338,
     339, 347, 529, 530, 531, 532, 34675)
)  # fmt: skip
"""TIFF tags that describe how the pixels lie in the file, not the picture; 34675 is the colour profile."""


@dataclass(frozen=True)
class Picture:
    """An upright picture.

    Attributes:
        pixels: `[height, width, 1 or 3]`, uint8 or, for 16-bit grey, uint16.
        alpha: uint8 `[height, width]`, or None.
        icc: the colour profile of `pixels`, or None for sRGB.
        exif: without orientation, or None.
    """

    pixels: np.ndarray[Any, Any]
    alpha: np.ndarray[Any, Any] | None = None
    icc: bytes | None = None
    exif: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image file as upright 8-bit RGB.

    EXIF orientation is applied. 16-bit grey is scaled to 8 bits. Alpha is dropped, and of an animation only
    the first frame is read, as timm and torchvision do; both are logged as warnings.

    Raises:
        InputError: no such file, not an image, damaged, too large, or values that are not 8- or 16-bit.
        UnavailableError: Pillow is not installed.
    """
    path = os.fspath(path)
    with _opened(path) as image:
        return _to_rgb(image, path)


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read a picture with its alpha, colour profile and EXIF.

    Grey stays grey, 16-bit grey stays 16-bit, and whatever is neither grey nor RGB (palettes, CMYK, Lab)
    becomes RGB, by its colour profile where it has one. Of an animation only the first frame is read, which
    is logged as a warning.

    Raises:
        InputError: see `load_image`.
        UnavailableError: Pillow is not installed.
    """
    path = os.fspath(path)
    with _opened(path) as image:
        return _to_picture(image, path)


def picture_of(image: Image.Image) -> Picture:
    """A Pillow image as a `Picture`; `image` itself is not changed.

    Raises:
        InputError: values that are not 8- or 16-bit.
    """
    from PIL import ImageOps

    _refuse_empty(image, "the image")
    return _to_picture(ImageOps.exif_transpose(image), "the image")


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """The first frame, upright; what a decoder raises, also while the block converts, becomes InputError."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise UnavailableError("reading an image needs Pillow; pip install pillow") from error

    if not os.path.exists(path):
        raise InputError(f"image {path} does not exist; give the path of an image file")
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder; give the path of an image file")
    try:
        if os.path.getsize(path) == 0:
            raise InputError(f"image {path} is empty (0 bytes); get a fresh copy")
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                logger.warning("%s has %d frames; only the first one is used", path, frames)
            _refuse_empty(image, path)
            image.load()
            yield ImageOps.exif_transpose(image)
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


def _refuse_empty(image: Image.Image, path: str) -> None:
    if 0 in image.size:
        raise InputError(f"{path} has no pixels: it is {image.width}x{image.height}; give a picture")


def _hint(path: str) -> str:
    with open(path, "rb") as file:
        start = file.read(40)
    if start.startswith(b"version https://git-lfs"):
        return ": it is a Git LFS pointer; run git lfs pull"
    return "; use a PNG, JPEG, WebP, BMP or TIFF file"


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _deep_grey(image: Image.Image, path: str) -> np.ndarray[Any, Any]:
    """Uint16 `[height, width]` of a mode with more than 8 bits."""
    import numpy as np

    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F" or low < 0 or high > 65535:
        raise InputError(
            f"image {path} holds values from {low} to {high} in Pillow's mode {image.mode}; "
            "accepted: 8- and 16-bit images"
        )
    return values.astype(np.uint16)


def _to_rgb(image: Image.Image, path: str) -> Image.Image:
    import numpy as np
    from PIL import Image

    if _is_deep(image):
        grey = (_deep_grey(image, path).astype(np.uint32) * 255 + 32767) // 65535
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data and _alpha(image).getextrema()[0] < 255:  # type: ignore[operator]
        logger.warning("%s is partly transparent; its transparency is ignored", path)
    return image.convert("RGB")


def _alpha(image: Image.Image) -> Image.Image:
    return image.getchannel("A") if image.mode in ("RGBA", "LA") else image.convert("RGBA").getchannel("A")


def _to_picture(image: Image.Image, path: str) -> Picture:
    import numpy as np

    icc = image.info.get("icc_profile") or None
    exif = _exif(image, path)
    if _is_deep(image):
        return Picture(_deep_grey(image, path)[..., None], None, icc, exif)
    alpha = np.array(_alpha(image)) if image.has_transparency_data else None
    if image.mode in ("1", "L", "LA", "La"):
        grey = image.getchannel("L") if image.mode == "LA" else image.convert("L")
        return Picture(np.array(grey)[..., None], alpha, icc if _space(icc) == "GRAY" else None, exif)
    if icc is not None and _space(icc) != "RGB":
        image, icc = _to_srgb(image, icc, path), None
    return Picture(np.array(image.convert("RGB")), alpha, icc, exif)


def _space(icc: bytes | None) -> str:
    """The colour space that a profile is for: ICC.1:2022, 7.2.6, bytes 16 to 19 of its header."""
    return "" if icc is None else icc[16:20].decode("latin-1").strip()


def _to_srgb(image: Image.Image, icc: bytes, path: str) -> Image.Image:
    from PIL import ImageCms

    try:
        source = ImageCms.getOpenProfile(io.BytesIO(icc))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        logger.warning("%s: its colour profile cannot be applied and is dropped (%s)", path, error)
        return image
    return image if converted is None else converted


def grey_in_srgb(picture: Picture) -> Picture:
    """An RGB picture that will become grey, which its profile does not fit: in sRGB, without a profile."""
    import numpy as np
    from PIL import Image

    if picture.icc is None or picture.pixels.shape[2] != 3:
        return picture
    converted = _to_srgb(Image.fromarray(picture.pixels), picture.icc, "the picture")
    return Picture(np.array(converted), picture.alpha, None, picture.exif)


def _exif(image: Image.Image, path: str) -> bytes | None:
    try:
        exif = image.getexif()
        for tag in (_ORIENTATION, *(_TIFF_STRUCTURE if image.format in (None, "TIFF") else ())):
            exif.pop(tag, None)
        return exif.tobytes() if len(exif) or exif.get_ifd(_EXIF_IFD) else None
    except Exception as error:  # Pillow parses EXIF lazily and raises what it likes for a damaged one
        logger.warning("%s: its EXIF data is damaged and dropped (%s)", path, error)
        return None


def compose(pixels: np.ndarray[Any, Any], alpha: np.ndarray[Any, Any] | None, source: Picture) -> Image.Image:
    """Uint8 `[height, width, 1, 3 or 4]` as a Pillow image with the profile and EXIF of `source`.

    `alpha` of another size is resized (Lanczos); a picture that was grey becomes grey again.
    """
    import numpy as np
    from PIL import Image

    if pixels.shape[2] == 4:
        image = Image.fromarray(pixels)
    else:
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if source.pixels.shape[2] == 1 and image.mode in ("RGB", "RGBA"):
        grey = image.convert("L")
        if image.mode == "RGBA":
            grey.putalpha(image.getchannel("A"))
        image = grey
    if alpha is not None and "A" not in image.mode:
        plane = Image.fromarray(np.ascontiguousarray(alpha))
        image.putalpha(
            plane if plane.size == image.size else plane.resize(image.size, Image.Resampling.LANCZOS)
        )
    if source.icc is not None and (_space(source.icc) == "GRAY") == (image.mode in ("L", "LA")):
        image.info["icc_profile"] = source.icc
    if source.exif is not None:
        image.info["exif"] = _resized_exif(source.exif, image.size)
    return image


def _resized_exif(exif: bytes, size: tuple[int, int]) -> bytes:
    """With the width and height that EXIF repeats, where it does."""
    from PIL import Image

    parsed = Image.Exif()
    parsed.load(exif)
    inner = parsed.get_ifd(_EXIF_IFD)
    for tag, side in ((_PIXEL_WIDTH, size[0]), (_PIXEL_HEIGHT, size[1])):
        if tag in inner:
            inner[tag] = side
    return parsed.tobytes()


def names_a_picture(path: Path) -> bool:
    """Whether the suffix is that of a picture format, one that cannot be written too."""
    try:
        from PIL import Image
    except ImportError:
        return path.suffix.lower() in READABLE
    return path.suffix.lower() in Image.registered_extensions()


def why_not_write(path: Path, size: tuple[int, int]) -> str | None:
    """None if a picture of that width and height can be written to `path`, else the reason and next step."""
    if path.suffix.lower() not in _FORMATS:
        return f"{path} has no suffix of a picture format; accepted: {', '.join(WRITABLE)}"
    name, longest, _ = _FORMATS[path.suffix.lower()]
    if max(size) > longest:
        return f"{path}: {name} holds at most {longest} pixels a side, not {size[0]}x{size[1]}; write a .png"
    return None


def write_picture(image: Image.Image, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write an image with the profile and EXIF in its `info`; the format follows the suffix.

    The file appears complete or not at all.

    Raises:
        InputError: the file exists without `force`, an unknown suffix, transparency in a JPEG, a picture too
            large for the format, or a folder or disk that cannot be written.
    """
    target = Path(path)
    if (reason := why_not_write(target, image.size)) is not None:
        raise InputError(reason)
    name, _, options = _FORMATS[target.suffix.lower()]
    if name == "JPEG" and "A" in image.mode:
        if image.getchannel("A").getextrema()[0] < 255:  # type: ignore[operator]
            raise InputError(f"{target}: JPEG holds no transparency; write a .png, .webp or .tiff")
        image = _opaque(image)
    kept = {key: image.info[key] for key in ("icc_profile", "exif") if key in image.info}
    with writing(target, force=force) as stream:
        image.save(stream, format=name, **options, **kept)


def _opaque(image: Image.Image) -> Image.Image:
    info = dict(image.info)
    image = image.convert("L" if image.mode == "LA" else "RGB")
    image.info.update(info)
    return image
