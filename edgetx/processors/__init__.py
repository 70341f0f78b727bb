"""Numpy-only pre- and post-processing: a file in, tensors out, and back to an answer.

A processor is a frozen dataclass of plain settings; the manifest stores it as `{"kind": kind, **settings}`.
Pillow is imported only when an image is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from edgetx.core import Processor
from edgetx.errors import InputError
from edgetx.images import load_image
from edgetx.processors.classification import (
    CROP_MODES,
    INTERPOLATIONS,
    MAX_RESIZED_PIXELS,
    ImageClassification,
    ImageFeatures,
)
from edgetx.processors.points import PointCloudDetection
from edgetx.processors.restoration import ImageRestoration
from edgetx.processors.tensors import Tensors, numpy_dtype, restore_dtype, summarise

__all__ = [
    "CROP_MODES",
    "INTERPOLATIONS",
    "MAX_RESIZED_PIXELS",
    "PROCESSORS",
    "ImageClassification",
    "ImageFeatures",
    "ImageRestoration",
    "PointCloudDetection",
    "Tensors",
    "from_dict",
    "load_image",
    "numpy_dtype",
    "restore_dtype",
    "summarise",
    "to_dict",
]


PROCESSORS: Mapping[str, type[Processor]] = {
    ImageClassification.kind: ImageClassification,
    ImageFeatures.kind: ImageFeatures,
    ImageRestoration.kind: ImageRestoration,
    PointCloudDetection.kind: PointCloudDetection,
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
