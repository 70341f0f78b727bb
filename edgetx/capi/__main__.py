"""`python -m edgetx.capi`: print where the C library is, for build systems."""

from __future__ import annotations

import argparse
import sys

from edgetx import capi
from edgetx.errors import EdgetxError


def main() -> int:
    """Print one folder or file a line, in the order in which they were asked for."""
    parser = argparse.ArgumentParser(prog="python -m edgetx.capi", description=__doc__)
    asked: list[str] = []
    for name, what in (
        ("library", "the shared library"),
        ("include-dir", "the folder of edgetx.h"),
        ("cmake-dir", "for CMake's edgetx_DIR"),
        ("pkgconfig-dir", "for PKG_CONFIG_PATH"),
    ):
        parser.add_argument(
            f"--{name}", dest="asked", action="append_const", const=name.replace("-", "_"), help=what
        )
    parser.set_defaults(asked=asked)
    chosen = parser.parse_args().asked
    if not chosen:
        parser.error("name at least one of --library, --include-dir, --cmake-dir and --pkgconfig-dir")
    try:
        for name in chosen:
            print(getattr(capi, name)())
    except EdgetxError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
