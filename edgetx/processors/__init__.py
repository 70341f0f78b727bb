"""Numpy-only pre- and post-processing: a file in, tensors out, and back to an answer.

A processor is a frozen struct of plain settings; the manifest stores it as `{"kind": kind, **settings}`.
Each kind is imported when a package has it, Pillow only when an image is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgetx.core import Processor
from edgetx.errors import InputError

if TYPE_CHECKING:
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

_KINDS = {
    "image-classification": "ImageClassification",
    "image-features": "ImageFeatures",
    "image-restoration": "ImageRestoration",
    "point-cloud-detection": "PointCloudDetection",
    "tensors": "Tensors",
}
_HOME = {
    "CROP_MODES": "edgetx.processors.classification",
    "INTERPOLATIONS": "edgetx.processors.classification",
    "MAX_RESIZED_PIXELS": "edgetx.processors.classification",
    "ImageClassification": "edgetx.processors.classification",
    "ImageFeatures": "edgetx.processors.classification",
    "ImageRestoration": "edgetx.processors.restoration",
    "PointCloudDetection": "edgetx.processors.points",
    "Tensors": "edgetx.processors.tensors",
    "load_image": "edgetx.images",
    "numpy_dtype": "edgetx.processors.tensors",
    "restore_dtype": "edgetx.processors.tensors",
    "summarise": "edgetx.processors.tensors",
}

__all__ = [
    "CROP_MODES",
    "INTERPOLATIONS",
    "MAX_RESIZED_PIXELS",
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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


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
    if not isinstance(kind, str) or kind not in _KINDS:
        raise InputError(f"kind: expected one of {', '.join(_KINDS)}, got {kind!r}")
    cls: Any = __getattr__(_KINDS[kind])
    known = cls.__struct_fields__
    if unknown := [name for name in settings if name not in known]:
        raise InputError(f"{unknown[0]}: not a setting of {kind}; it has {', '.join(known) or 'none'}")
    try:
        processor: Processor = cls(**settings)
    except TypeError as error:
        raise InputError(f"kind: {kind} cannot be made from {sorted(settings)}: {error}") from error
    return processor
