"""Real photographs to verify and measure with: CC0 files that ship inside scikit-image's wheel."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from edgetx.errors import UnavailableError

NAMES = ("astronaut.png", "coffee.png", "chelsea.png")
"""A portrait (512x512), a cup on a table (600x400) and a cat (451x300), as width x height."""


def photographs() -> tuple[Path, ...]:
    """The paths of the sample photographs, always in the same order.

    Raises:
        UnavailableError: scikit-image, or one of its files, is not installed.
    """
    # The files are found without importing scikit-image, which takes longer than reading them.
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise UnavailableError(
            "no image was given and scikit-image, whose photographs are the default, is not installed; "
            "pass --image FILE or pip install edgetx[export]"
        )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    paths = tuple(folder / name for name in NAMES)
    if missing := [path.name for path in paths if not path.is_file()]:
        raise UnavailableError(
            f"scikit-image is installed without {', '.join(missing)} in {folder}; "
            "pass --image FILE or reinstall scikit-image"
        )
    return paths
