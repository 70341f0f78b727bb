"""edgetx: a PyTorch transformer checkpoint in, a verified and measured package for an edge device out.

    package = edgetx.export("timm:swin_tiny_patch4_window7_224")   # needs edgetx[export,ort]
    with edgetx.load(package) as session:                           # needs edgetx[ort], no torch
        outputs = session.run({"image": array})

Importing this package imports no framework; each name below is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgetx.batching import Batcher
    from edgetx.benchmark import bench
    from edgetx.building import build
    from edgetx.core import IOSpec, Session, SymbolRange, Target, TensorSpec, Verdict
    from edgetx.errors import EdgetxError
    from edgetx.package import Package
    from edgetx.pipeline import deploy, export
    from edgetx.precision import convert
    from edgetx.quantization import quantize
    from edgetx.restoration import restore
    from edgetx.runtimes import load
    from edgetx.servers import to_triton
    from edgetx.verification import verify

__version__ = "0.1.0"

_HOME = {
    "Batcher": "batching",
    "EdgetxError": "errors",
    "IOSpec": "core",
    "Package": "package",
    "Session": "core",
    "SymbolRange": "core",
    "Target": "core",
    "TensorSpec": "core",
    "Verdict": "core",
    "bench": "benchmark",
    "build": "building",
    "convert": "precision",
    "deploy": "pipeline",
    "export": "pipeline",
    "load": "runtimes",
    "quantize": "quantization",
    "restore": "restoration",
    "to_triton": "servers",
    "verify": "verification",
}

__all__ = [
    "Batcher",
    "EdgetxError",
    "IOSpec",
    "Package",
    "Session",
    "SymbolRange",
    "Target",
    "TensorSpec",
    "Verdict",
    "bench",
    "build",
    "convert",
    "deploy",
    "export",
    "load",
    "quantize",
    "restore",
    "to_triton",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edgetx' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(f"edgetx.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
