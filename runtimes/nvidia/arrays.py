"""Arrays of any library by address: numpy, torch, CuPy and what speaks DLPack or CUDA's array interface."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from edgetx.core import TensorSpec
from edgetx.errors import InputError
from edgetx.runtimes.nvidia import dlpack


class Located(NamedTuple):
    """Where an input lies. `keep` must live as long as the address is used.

    Attributes:
        library: that outputs should come back in; `numpy`, `torch`, `cupy` or `dlpack`.
        device: index of the GPU, or None for host memory.
    """

    address: int
    device: int | None
    library: str
    keep: Any


def locate(array: Any, name: str) -> Located:
    """An input's address; numpy arrays that are not contiguous are copied.

    Raises:
        InputError: an array of no known kind, on another kind of device, or a torch, CuPy or DLPack array
            that is not contiguous.
    """
    origin = type(array).__module__.partition(".")[0]
    if origin == "torch":
        if not array.is_contiguous():
            raise _scattered(name)
        kind = array.device.type
        if kind not in ("cpu", "cuda"):
            raise InputError(f"input {name!r} is on {kind}; accepted: cpu and cuda")
        index = (array.device.index or 0) if kind == "cuda" else None
        return Located(array.data_ptr(), index, "torch", array)
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is not None:
        strides = interface.get("strides")
        size = dlpack.itemsize(interface["typestr"])
        if strides is not None and tuple(strides) != dlpack.packed(interface["shape"], size):
            raise _scattered(name)
        index = int(getattr(getattr(array, "device", None), "id", 0))
        return Located(interface["data"][0], index, "cupy" if origin == "cupy" else "dlpack", array)
    if hasattr(array, "__array_interface__"):
        import numpy as np

        array = np.ascontiguousarray(array)
        return Located(array.ctypes.data, None, "numpy", array)
    if hasattr(array, "__dlpack__"):
        seen = dlpack.view(array)
        if not seen.contiguous:
            raise _scattered(name)
        if seen.kind not in (dlpack.CPU, dlpack.CUDA):
            raise InputError(
                f"input {name!r} is on a device of DLPack's kind {seen.kind}; accepted: cpu and cuda"
            )
        return Located(seen.address, seen.ordinal if seen.kind == dlpack.CUDA else None, "dlpack", seen)
    raise InputError(
        f"input {name!r} is a {type(array).__qualname__}; accepted: numpy, torch, CuPy and DLPack arrays"
    )


def finish(library: str) -> None:
    """Wait for what the caller queued on its own CUDA stream.

    A DLPack array is waited for when its capsule is asked for: the standard's default is the legacy stream,
    on which every stream of ours waits.
    """
    if library == "torch":
        sys.modules["torch"].cuda.current_stream().synchronize()
    elif library == "cupy":
        sys.modules["cupy"].cuda.get_current_stream().synchronize()


def empty(library: str, spec: TensorSpec, shape: tuple[int, ...], device: int) -> Any:
    """An array of the caller's library on the GPU, for an output."""
    if library == "torch":
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, spec.dtype), device=f"cuda:{device}")
    cupy = sys.modules["cupy"]
    with cupy.cuda.Device(device):
        return cupy.empty(shape, dtype=spec.dtype)


def _scattered(name: str) -> InputError:
    return InputError(f"input {name!r} is not contiguous; pass a contiguous copy")
