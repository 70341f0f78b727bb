"""Where the native library is: edgetx's kernels for ONNX Runtime, on the CPU and on NVIDIA GPUs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edgetx import ops
from edgetx.errors import UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

NAME = "libedgetx_ort.so"
VARIABLE = "EDGETX_OPS_LIBRARY"
"""The environment variable that names another build of the library."""
KERNELS = "edgetx_kernels.bin"
KERNELS_VARIABLE = "EDGETX_KERNELS"
"""The environment variable that names another file of compiled GPU kernels."""
PROVIDER_KEY = "edgetx.provider"
"""The session's option for which the library registers operators: `cpu`, as without it, or `cuda`."""
CUDA_OPERATORS = ("WindowAttention", "GroupAttention")
"""What it registers for `cuda`; the others run as their bodies there."""


def path() -> str | None:
    """The library's file, or None where it was not built; `why_not` says more.

    In this order: the file that `EDGETX_OPS_LIBRARY` names, the installed one, and in a checkout
    `build/dev/libedgetx_ort.so`.

    Raises:
        UnavailableError: `EDGETX_OPS_LIBRARY` names a file that does not exist.
    """
    if chosen := os.environ.get(VARIABLE):
        if not os.path.isfile(chosen):
            raise UnavailableError(
                f"{VARIABLE} is {chosen!r}, which is no file; set it to a {NAME} or unset it"
            )
        return chosen
    return _find(NAME)


def find(name: str) -> Path | None:
    """A native file that was installed with edgetx, or in a checkout one of `build/dev`."""
    from pathlib import Path

    found = _find(name)
    return None if found is None else Path(found)


def _find(name: str) -> str | None:
    # An editable install has several folders here: Python sources and what was built. importlib.resources
    # knows them too, but brings tempfile, shutil and the archive formats into every start.
    folders = list(ops.__path__)
    roots = [os.path.dirname(os.path.dirname(folder)) for folder in folders]
    checkouts = [root for root in roots if os.path.isfile(os.path.join(root, "CMakeLists.txt"))]
    candidates = [*folders, *(os.path.join(root, "build", "dev") for root in checkouts)]
    files = (os.path.join(folder, name) for folder in candidates)
    return next((file for file in files if os.path.isfile(file)), None)


def why_not() -> str | None:
    """None if the library is there, else how to get it."""
    try:
        found = path()
    except UnavailableError as error:
        return str(error)
    if found:
        return None
    return (
        f"{NAME} was not built, so operators run as standard ONNX operators; reinstall edgetx on a machine "
        "with a C++ compiler (in a checkout: cmake -S . -B build/dev -G Ninja && cmake --build build/dev)"
    )


def why_no_kernels(library: str | Path | None) -> str | None:
    """None if the GPU kernels that the native file `library` launches are there, else how to get them."""
    if chosen := os.environ.get(KERNELS_VARIABLE):
        if os.path.isfile(chosen):
            return None
        return f"{KERNELS_VARIABLE} is {chosen!r}, which is no file; set it to a {KERNELS} or unset it"
    if library is not None and os.path.isfile(os.path.join(os.path.dirname(library), KERNELS)):
        return None
    return (
        f"{KERNELS} is missing, the operators' kernels compiled for every GPU; build it with "
        "`python -m edgetx.ops.aot` (needs Triton, no GPU; in a checkout: make kernels)"
    )
