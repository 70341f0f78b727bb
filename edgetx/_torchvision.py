"""Lets `import torchvision` (and timm, transformers) work beside a torch that cannot load its native library.

PyPI's torchvision is built for CUDA. Beside a CPU-only torch its `_C` library does not load, and the import
then fails where `torchvision/_meta_registrations.py` registers shapes for two operators that do not exist.
Declaring their schemas first is enough; nothing in edgetx calls them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_SCHEMA = "{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: torch.library.Library | None = None


def install() -> None:
    """Declare `torchvision::nms` and `torchvision::qnms` where torchvision's library cannot. Idempotent."""
    global _library
    if _library is not None or "torchvision" in sys.modules or _native_library_loads():
        return
    import torch

    _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            _library.define(_SCHEMA.format(name=name))  # type: ignore[no-untyped-call]


def _native_library_loads() -> bool:
    """Whether torchvision's own operators will be there: then the schemas must not be declared twice."""
    from importlib.util import find_spec
    from pathlib import Path

    import torch

    spec = find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return True
    libraries = [
        path
        for folder in spec.submodule_search_locations
        for path in Path(folder).glob("_C*")
        if path.is_file()
    ]
    try:
        for library in libraries:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError):
        return False
    return bool(libraries)
