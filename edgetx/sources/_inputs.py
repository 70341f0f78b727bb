"""Sample inputs: real photographs for image models, the user's tensors, else seeded random ones."""

from __future__ import annotations

import dataclasses
import inspect
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from edgetx import samples
from edgetx.core import IOSpec, SymbolRange, TensorSpec
from edgetx.errors import SourceError
from edgetx.processors import ImageClassification, ImageFeatures, ImageRestoration, numpy_dtype
from edgetx.sources._loaded import SEED, ImageSettings

Feeds = dict[str, Any]
ImageProcessor = ImageClassification | ImageFeatures

PICTURES = ((64, 64), (40, 72), (37, 51), (5, 9))
"""Height and width of a restoration model's samples: square, landscape, odd, smaller than a window."""

SCALES = ((8 / 7, 19 / 14), (1.0, 8 / 7))
"""Height and width of the further samples, relative to the model's own: 224 becomes 256x304, then 224x256."""

EXTENT = {"height": 224, "width": 224, "length": 128}
"""Sizes of synthetic inputs for symbols of these names; `batch` and first dimensions are 1, all others 64."""


def processor_for(
    settings: ImageSettings, io: IOSpec, notes: list[str], *, classifier: bool
) -> ImageProcessor | None:
    """The processor of an image model; None where its first input is no RGB image of those settings."""
    spec = io.inputs[0]
    if len(io.inputs) != 1 or len(spec.shape) != 4 or spec.shape[1] not in (3, "channels"):
        return None
    height, width = (
        dim if isinstance(dim, int) else _allowed(own, io.symbols.get(dim, SymbolRange()))
        for dim, own in zip(spec.shape[2:], settings.size, strict=True)
    )
    size = (height, width)
    if size != settings.size:
        notes.append(
            f"images are {size[0]}x{size[1]}, which the model takes, not "
            f"{settings.size[0]}x{settings.size[1]}"
        )
    values = {
        key: value for key, value in dataclasses.asdict(settings).items() if key not in ("labels", "size")
    }
    logits = next((output for output in io.outputs if output.name == "logits"), io.outputs[0])
    if not classifier or len(logits.shape) != 2 or (len(io.outputs) > 1 and logits.name != "logits"):
        return ImageFeatures(size=size, **values)
    labels = settings.labels
    if labels is not None and len(labels) != logits.shape[1]:
        notes.append(
            f"the model has {logits.shape[1]} classes and its labels are {len(labels)}: none are shown"
        )
        labels = None
    return ImageClassification(size=size, labels=labels, output=logits.name, **values)


def image_example(settings: ImageSettings) -> torch.Tensor:
    """Zeros of the size that an image model is used with, to describe one that no exporter recognises."""
    return torch.zeros(1, 3, *settings.size)


def photographs(processor: ImageProcessor, io: IOSpec, paths: Sequence[Path]) -> list[Feeds]:
    """Photographs as feeds: one alone, two as a batch, and one at every other size that the model takes.

    Args:
        paths: the user's photographs; none for the built-in ones.

    Raises:
        InputError: a file is no image, see `edgetx.processors.load_image`.
    """
    spec = io.inputs[0]
    paths = paths or samples.photographs()
    singles = [processor.preprocess(str(path), io)[spec.name] for path in paths]
    feeds, used = [{spec.name: singles[0]}], 1
    if isinstance(spec.shape[0], str):
        second = singles[1] if len(singles) > 1 else singles[0][..., ::-1]
        feeds.append({spec.name: np.ascontiguousarray(np.concatenate([singles[0], second]))})
        used = 2
    for size in _other_sizes(processor.size, spec, io):
        other = msgspec.structs.replace(processor, size=size, resize_size=None)
        feeds.append({spec.name: other.preprocess(str(paths[used % len(paths)]), io)[spec.name]})
        used += 1
    feeds.extend({spec.name: single} for single in singles[used:])
    return feeds


def pictures(processor: ImageRestoration, io: IOSpec, paths: Sequence[Path]) -> list[Feeds]:
    """Crops of photographs as feeds for a restoration model: `PICTURES` in turn, the second one twice over.

    A photograph that is smaller than a crop is used as it is. Where the model's sizes are fixed, all crops
    have that size, continued by reflection.

    Raises:
        InputError: a file is no image, see `edgetx.processors.load_image`.
    """
    spec = io.inputs[0]
    paths = paths or samples.photographs()
    feeds: list[Feeds] = []
    fixed = all(isinstance(dim, int) for dim in spec.shape[2:])
    for index, wanted in enumerate(PICTURES[:2] if fixed else PICTURES):
        whole = processor.preprocess(str(paths[index % len(paths)]), io)
        cropped: Feeds = {}
        for name, plane in whole.items():
            height, width = (
                dim if isinstance(dim, int) else _allowed(size, io.symbols.get(dim, SymbolRange()))
                for dim, size in zip(spec.shape[2:], wanted, strict=True)
            )
            top, left = (
                max((own - size) // 2, 0) for own, size in zip(plane.shape[-2:], (height, width), strict=True)
            )
            part = plane[..., top : top + height, left : left + width]
            missing = [(0, 0)] * (part.ndim - 2) + [
                (0, size - own) for own, size in zip(part.shape[-2:], (height, width), strict=True)
            ]
            cropped[name] = np.ascontiguousarray(np.pad(part, missing, "symmetric") if fixed else part)
        feeds.append(cropped)
    if isinstance(spec.shape[0], str):
        feeds[1] = {key: np.concatenate([plane, plane[..., ::-1]]) for key, plane in feeds[1].items()}
    return feeds


def synthetic(io: IOSpec) -> list[Feeds]:
    """Seeded standard-normal tensors (integers: 0 or 1): usual sizes, another batch, all sizes larger."""
    sizes = {
        dim: _allowed(_extent(dim, axis), io.symbols.get(dim, SymbolRange()))
        for spec in reversed(io.inputs)
        for axis, dim in enumerate(spec.shape)
        if isinstance(dim, str)
    }
    larger = {
        dim: _allowed(size + max(1, size // 4), io.symbols.get(dim, SymbolRange()))
        for dim, size in sizes.items()
    }
    more_items = {dim: larger[dim] if dim == "batch" else size for dim, size in sizes.items()}
    return [_draw(io, chosen, case) for case, chosen in enumerate((sizes, more_items, larger))]


def given(module: torch.nn.Module, example: Any, io: IOSpec) -> Feeds:
    """The user's example as feeds, checked against `io`.

    Raises:
        InputError: a name, dtype or shape does not fit.
    """
    # An exporter may call an input otherwise than `forward` does: the order decides (see `positional`).
    if isinstance(example, Mapping):
        values = list(example.values())
    else:
        values = list(example) if isinstance(example, (tuple, list)) else [example]
    if len(values) != len(io.inputs):
        raise SourceError(
            f"{len(values)} example inputs were given; {type(module).__name__} takes "
            f"{'; '.join(map(str, io.inputs))}"
        )
    feeds = {spec.name: _array(value) for spec, value in zip(io.inputs, values, strict=True)}
    io.check(feeds)
    return feeds


def as_tensors(example: Any) -> Any:
    """The same example with numpy arrays as tensors, all on the CPU, and half precision floats as float32.

    Raises:
        SourceError: it holds something else than tensors and arrays.
    """
    if isinstance(example, Mapping):
        return {str(name): as_tensors(value) for name, value in example.items()}
    if isinstance(example, (tuple, list)):
        return tuple(as_tensors(value) for value in example)
    if isinstance(example, np.ndarray):
        if example.dtype.name not in (
            "float32",
            "float16",
            "float64",
            "int8",
            "uint8",
            "int32",
            "int64",
            "bool",
        ):
            raise SourceError(f"example inputs hold an array of dtype {example.dtype}; give float32 or int64")
        example = torch.from_numpy(np.ascontiguousarray(example))
    if not isinstance(example, torch.Tensor):
        raise SourceError(
            f"example inputs hold a {type(example).__name__}; accepted: a tensor, a tuple or list of tensors "
            "in positional order, or a mapping from name to tensor (torch or numpy)"
        )
    tensor = example.detach().to("cpu")
    return tensor.float() if tensor.is_floating_point() else tensor


def positional(module: torch.nn.Module, example: Any) -> Any:
    """Order a mapping as `module.forward` takes its arguments.

    Raises:
        SourceError: `forward` has no such argument, or one that it needs in between is not given.
    """
    if not isinstance(example, Mapping):
        return example
    parameters = inspect.signature(module.forward).parameters
    if any(value.kind is inspect.Parameter.VAR_POSITIONAL for value in parameters.values()):
        return example
    if unknown := [name for name in example if name not in parameters]:
        raise SourceError(
            f"{type(module).__name__}.forward has no argument {unknown[0]!r}; "
            f"it takes {', '.join(parameters)}"
        )
    leading = list(parameters)[: len(example)]
    if missing := [name for name in leading if name not in example]:
        raise SourceError(
            f"example inputs skip {missing[0]!r}; {type(module).__name__}.forward takes "
            f"{', '.join(parameters)} and is called with the leading ones: "
            "wrap the model in one that takes just its inputs"
        )
    return {name: example[name] for name in leading}


def _array(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _other_sizes(size: tuple[int, int], spec: TensorSpec, io: IOSpec) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for scales in SCALES[:1] if all(isinstance(dim, str) for dim in spec.shape[2:]) else SCALES:
        height, width = (
            _allowed(round(own * scale), io.symbols.get(dim, SymbolRange())) if isinstance(dim, str) else dim
            for own, scale, dim in zip(size, scales, spec.shape[2:], strict=True)
        )
        if (height, width) != size and (height, width) not in found:
            found.append((height, width))
    return found


def _allowed(size: int, allowed: SymbolRange) -> int:
    """The largest allowed size up to `size`, or the smallest allowed one."""
    lowest = -(-allowed.min // allowed.step) * allowed.step
    capped = size if allowed.max is None else min(size, allowed.max)
    return max(capped // allowed.step * allowed.step, lowest)


def _extent(dim: str, axis: int) -> int:
    return 1 if axis == 0 or dim == "batch" else EXTENT.get(dim, 64)


def _draw(io: IOSpec, sizes: Mapping[str, int], case: int) -> Feeds:
    feeds: Feeds = {}
    for spec in io.inputs:
        shape = [sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape]
        generator = np.random.default_rng([SEED, case, zlib.crc32(spec.name.encode())])
        dtype = numpy_dtype(spec.dtype)
        if "float" in spec.dtype:
            feeds[spec.name] = generator.standard_normal(shape, dtype=np.float32).astype(dtype)
        else:
            feeds[spec.name] = generator.integers(0, 2, shape).astype(dtype)
    return feeds
