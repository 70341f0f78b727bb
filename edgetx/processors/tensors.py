"""Raw arrays in and a summary of arrays out."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from edgetx.core import DTYPES, IOSpec
from edgetx.errors import InputError, UnavailableError

if TYPE_CHECKING:
    import numpy as np


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of one of `edgetx.core.DTYPES`; bfloat16 comes from ml_dtypes.

    Raises:
        InputError: another name.
        UnavailableError: bfloat16 without ml_dtypes.
    """
    import numpy as np

    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise UnavailableError(
                "numpy has no bfloat16 of its own; pip install ml_dtypes to use bfloat16 tensors"
            ) from error
        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    if name not in DTYPES:
        raise InputError(f"unknown dtype {name!r}; accepted: {', '.join(DTYPES)}")
    return np.dtype(name)


def summarise(outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, dtype, shape, min, max, mean and standard deviation of every output, JSON-serialisable."""
    import numpy as np

    summary = []
    for name, output in outputs.items():
        values = np.asarray(output)
        entry: dict[str, Any] = {"output": name, "dtype": str(values.dtype), "shape": list(values.shape)}
        if values.size:
            wide = values.astype(np.float64)
            statistics = {"min": wide.min(), "max": wide.max(), "mean": wide.mean(), "std": wide.std()}
            for key, number in statistics.items():
                entry[key] = float(number) if math.isfinite(number) else None
        summary.append(entry)
    return summary


class Tensors(msgspec.Struct, frozen=True):
    """Raw arrays: an `.npy` file for a model of one input, or an `.npz` file with one array per input."""

    kind: ClassVar[str] = "tensors"

    def preprocess(self, path: str, io: IOSpec) -> dict[str, Any]:
        """Read the feeds as they are; `Session.run` checks dtype and shape.

        Raises:
            InputError: no such file, not .npy or .npz, pickled objects, or one array for several inputs.
        """
        import numpy as np

        if not os.path.isfile(path):
            raise InputError(f"{path} is not a file; give an .npy or .npz file")
        try:
            loaded = np.load(path, allow_pickle=False)
            feeds = {name: loaded[name] for name in loaded} if hasattr(loaded, "files") else None
        except Exception as error:  # numpy raises ValueError, EOFError, OSError, zipfile.BadZipFile, ...
            raise InputError(f"{path} cannot be read as .npy or .npz ({error})") from error
        if feeds is None:
            if len(io.inputs) != 1:
                raise InputError(
                    f"{path} holds one array; the model takes {'; '.join(map(str, io.inputs))}: "
                    "give an .npz file with one array per input"
                )
            feeds = {io.inputs[0].name: loaded}
        dtypes = {spec.name: spec.dtype for spec in io.inputs}
        return {name: restore_dtype(array, dtypes.get(name)) for name, array in feeds.items()}

    def postprocess(self, outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        """See `summarise`."""
        return summarise(outputs)

    def to_dict(self) -> dict[str, Any]:
        """No settings."""
        return {}


def restore_dtype(array: np.ndarray[Any, Any], dtype: str | None) -> np.ndarray[Any, Any]:
    """Numpy writes bfloat16 as raw 2-byte records: view such an array as bfloat16 where that is expected."""
    if dtype == "bfloat16" and array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return array.view(numpy_dtype(dtype))
    return array
