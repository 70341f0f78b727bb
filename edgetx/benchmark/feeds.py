"""Arrays on disk between the parent and its workers: an `.npz` that keeps names and order."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgetx.errors import InputError

if TYPE_CHECKING:
    from edgetx.core import Processor


def save(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Write name -> numpy array; element types that npz cannot hold (bfloat16) are refused."""
    import numpy as np

    for name, array in arrays.items():
        if np.asarray(array).dtype.kind not in "fiub":
            raise InputError(
                f"tensor {name!r} has dtype {np.asarray(array).dtype}, which only a package can be fed with; "
                "benchmark the package alone"
            )
    # The index keeps the order and a tensor called `file` from colliding with savez's own argument.
    np.savez(path, **{f"{index}:{name}": array for index, (name, array) in enumerate(arrays.items())})


def load(path: str | Path) -> dict[str, Any]:
    """Read what `save` wrote, in its order."""
    import numpy as np

    with np.load(path, allow_pickle=False) as stored:
        keys = sorted(stored.files, key=lambda key: int(key.partition(":")[0]))
        return {key.partition(":")[2]: stored[key] for key in keys}


def find(paths: Sequence[str | os.PathLike[str]], processor: Processor | None) -> list[Path]:
    """The files that `processor` reads: those that are given, and those in the folders that are given.

    Raises:
        InputError: there is no processor, no such file or folder, or nothing to read in a folder.
    """
    if processor is None:
        raise InputError(f"the package has no processor, so it cannot read {', '.join(map(str, paths))}")
    if hasattr(processor, "counts"):
        from edgetx.points import READABLE as SUFFIXES
    else:
        from edgetx.images import READABLE as SUFFIXES
    found = []
    for each in map(Path, paths):
        if each.is_dir():
            inside = sorted(file for file in each.rglob("*") if file.suffix.lower() in SUFFIXES)
            if not inside:
                raise InputError(f"{each} holds nothing to read; looked for {', '.join(SUFFIXES)}")
            found += inside
        elif each.is_file():
            found.append(each)
        else:
            raise InputError(f"{each} does not exist; give files or a folder of {', '.join(SUFFIXES)}")
    return list(dict.fromkeys(found))


def rename(feeds: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Feeds under an engine's own input names: by name where they agree, else by position."""
    if set(feeds) == set(names):
        return {name: feeds[name] for name in names}
    if len(feeds) != len(names):
        raise InputError(f"the engine takes the inputs {list(names)}, but {list(feeds)} were given")
    return dict(zip(names, feeds.values(), strict=True))
