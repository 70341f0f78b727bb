"""The TensorRT plugins: where their library is, and how it is loaded; no framework is needed.

One library serves TensorRT and TensorRT-RTX. TensorRT-RTX's parser looks its registry up by a file name that
the wheel lacks, so a second library, empty but for that name, is loaded before it.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any, Literal, get_args

from edgetx import __version__
from edgetx.errors import InputError, UnavailableError
from edgetx.ops.library import KERNELS, KERNELS_VARIABLE, find
from edgetx.ops.library import why_no_kernels as _why_no_kernels

__all__ = [
    "CREATORS",
    "KERNELS",
    "KERNELS_VARIABLE",
    "NAME",
    "NAMESPACE",
    "RTX_NAME",
    "VARIABLE",
    "Flavour",
    "library",
    "load",
    "why_no_kernels",
    "why_not",
]

Flavour = Literal["tensorrt", "tensorrt_rtx"]

NAME = "libedgetx_trt.so"
RTX_NAME = "libtensorrt_rtx.so"
VARIABLE = "EDGETX_PLUGIN_LIBRARY"
"""The environment variable that names another build of the library."""
NAMESPACE = "edgetx"
CREATORS = ("WindowAttention", "GroupAttention")


def library(flavour: Flavour) -> Path:
    """The library with the plugins.

    Raises:
        UnavailableError: it is not there; see `why_not`.
    """
    if (reason := why_not(flavour)) is not None:
        raise UnavailableError(reason)
    found = _plugins()
    assert found is not None
    return found


def why_not(flavour: Flavour) -> str | None:
    """None if TensorRT or TensorRT-RTX can load the plugins, else how to get them.

    Whether a GPU can run them is another question; see `why_no_kernels`.
    """
    if flavour not in get_args(Flavour):
        raise InputError(f"unknown flavour {flavour!r}; accepted: {', '.join(get_args(Flavour))}")
    chosen = os.environ.get(VARIABLE)
    found = _plugins()
    if found is None:
        return (
            f"{VARIABLE} is {chosen!r}, which is no file; set it to a {NAME} or unset it"
            if chosen
            else f"{NAME} was not built: TensorRT's headers were not found; set TENSORRT_ROOT or pip install "
            "--no-deps kernel-lens, then reinstall edgetx on a machine with a C++ compiler"
        )
    try:
        version = _version(found)
    except (OSError, AttributeError) as error:
        return f"{found} is no library of edgetx's plugins ({error}); reinstall edgetx"
    if version != __version__:
        return f"{found} is of edgetx {version}, this is edgetx {__version__}; reinstall edgetx"
    if flavour == "tensorrt_rtx" and find(RTX_NAME) is None:
        return f"{RTX_NAME}, which leads TensorRT-RTX's parser to the plugins, is missing; reinstall edgetx"
    return None


def why_no_kernels() -> str | None:
    """None if the kernels that the plugins launch are there, else how to get them."""
    return _why_no_kernels(_plugins())


def load(trt_module: Any, registry: Any) -> Path:
    """Load the plugins into `registry`, a plugin registry of `trt_module` (`tensorrt` or `tensorrt_rtx`).

    Returns the library's file. Plugins that are registered already are left as they are.

    Raises:
        UnavailableError: see `why_not`; or TensorRT refuses the library.
    """
    flavour: Flavour = "tensorrt_rtx" if trt_module.__name__.startswith("tensorrt_rtx") else "tensorrt"
    found = library(flavour)
    if all(registry.get_creator(name, "1", NAMESPACE) is not None for name in CREATORS):
        return found
    if flavour == "tensorrt_rtx":
        # Global, so that the parser's search for the name ends here.
        ctypes.CDLL(str(find(RTX_NAME)), mode=os.RTLD_GLOBAL | os.RTLD_NOW)
    if registry.load_library(str(found)) is None:
        raise UnavailableError(f"{trt_module.__name__} {trt_module.__version__} refuses {found}; see its log")
    return found


def _plugins() -> Path | None:
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen) if Path(chosen).is_file() else None
    return find(NAME)


def _version(path: Path) -> str:
    function = ctypes.CDLL(str(path)).edgetx_plugin_version
    function.restype = ctypes.c_char_p
    return bytes(function()).decode()
