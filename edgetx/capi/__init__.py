"""Where the C library is: `libedgetx.so`, its header `edgetx.h`, and what CMake and pkg-config need.

`python -m edgetx.capi --cmake-dir` prints a folder for CMake's `edgetx_DIR`; see the page "C and C++" of the
documentation for the rest.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from edgetx.errors import UnavailableError

__all__ = ["cmake_dir", "include_dir", "library", "pkgconfig_dir"]


def library() -> Path:
    """The shared library.

    Raises:
        UnavailableError: it was not built; says how to get it.
    """
    return _find("lib/libedgetx.so")


def include_dir() -> Path:
    """The folder of `edgetx.h`.

    Raises:
        UnavailableError: see `library`.
    """
    return _find("include/edgetx.h").parent


def cmake_dir() -> Path:
    """The folder for CMake's `edgetx_DIR`, after which `find_package(edgetx)` gives `edgetx::edgetx`.

    Raises:
        UnavailableError: see `library`.
    """
    return _find("lib/cmake/edgetx/edgetxConfig.cmake").parent


def pkgconfig_dir() -> Path:
    """The folder for `PKG_CONFIG_PATH`, after which `pkg-config --cflags --libs edgetx` works.

    Raises:
        UnavailableError: see `library`.
    """
    return _find("lib/pkgconfig/edgetx.pc").parent


def _find(name: str) -> Path:
    # An editable install has several folders here: sources, and what was built.
    package = resources.files("edgetx.capi")
    file = package.joinpath(*name.split("/"))
    with resources.as_file(file) as path:
        if path.is_file():
            return path
    raise UnavailableError(
        f"{name} is not installed with edgetx; reinstall edgetx on a machine with a C++ compiler"
    )
