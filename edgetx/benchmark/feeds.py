"""Arrays on disk between the parent and its workers: an `.npz` that keeps names and order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgetx.errors import InputError


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


def rename(feeds: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Feeds under an engine's own input names: by name where they agree, else by position."""
    if set(feeds) == set(names):
        return {name: feeds[name] for name in names}
    if len(feeds) != len(names):
        raise InputError(f"the engine takes the inputs {list(names)}, but {list(feeds)} were given")
    return dict(zip(names, feeds.values(), strict=True))
