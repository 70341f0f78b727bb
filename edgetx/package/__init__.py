"""Packages: the folder that crosses from the export side to the run side.

    NAME/
      model.onnx           the graph; large weights beside it in model.onnx.data
      stages/<name>.onnx   its parts, one after the other the same model; where it was exported with them
      manifest.json        what it is, validated on read: the `Manifest` structure
      golden.npz           real inputs and PyTorch's outputs, replayed by `edgetx verify`
      engines/<key>/       a cache of built engines; not part of the package's hashes

A package is written to a hidden folder beside its destination and renamed at the end, so the destination
holds either the previous package or the complete new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgetx.package._entries import (
    ConversionEntry,
    FileEntry,
    IOEntry,
    KeptEntry,
    LayerEntry,
    ProfileEntry,
    QuantizationEntry,
    RangeOfModule,
    StageEntry,
    VerdictEntry,
)
from edgetx.package._manifest import MANIFEST, MODEL, SCHEMA_VERSION, Manifest
from edgetx.package._package import GOLDEN, Case, Package

if TYPE_CHECKING:
    from edgetx.package._draft import Draft, amend, create

__all__ = [
    "GOLDEN",
    "MANIFEST",
    "MODEL",
    "SCHEMA_VERSION",
    "Case",
    "ConversionEntry",
    "Draft",
    "FileEntry",
    "IOEntry",
    "KeptEntry",
    "LayerEntry",
    "Manifest",
    "Package",
    "ProfileEntry",
    "QuantizationEntry",
    "RangeOfModule",
    "StageEntry",
    "VerdictEntry",
    "amend",
    "create",
]


def __getattr__(name: str) -> Any:
    """What writes a package is loaded on first use: those that run one start without it."""
    if name not in ("Draft", "amend", "create"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    from edgetx.package import _draft

    value = getattr(_draft, name)
    globals()[name] = value
    return value
