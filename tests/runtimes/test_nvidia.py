"""What sessions on engines are made of, where no GPU is needed: arrays by address, profiles, times."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetx.core import Target
from edgetx.engines import child
from edgetx.errors import InputError
from edgetx.profiles import Range
from edgetx.runtimes.nvidia import arrays, dlpack, worker
from edgetx.runtimes.nvidia.runtime import device_index
from edgetx.runtimes.nvidia.session import choose_profile


class Opaque:
    """An array that speaks DLPack and nothing else."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def __dlpack__(self, **settings: Any) -> Any:
        return self._array.__dlpack__(**settings)


def test_a_dlpack_array_is_used_in_place() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = arrays.locate(Opaque(array), "x")
    assert (found.address, found.device, found.library) == (array.ctypes.data, None, "dlpack")
    inner = arrays.locate(Opaque(array[1:]), "x")
    assert inner.address == array.ctypes.data + 16
    with pytest.raises(InputError, match="'x' is not contiguous"):
        arrays.locate(Opaque(array[:, 1:]), "x")
    assert dlpack.view(Opaque(array[:1, :, None])).contiguous  # a size of 1 has no stride
    assert dlpack.view(Opaque(array[:, :0])).contiguous


def test_numpy_and_torch_arrays_are_located() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert arrays.locate(array, "x")[:3] == (array.ctypes.data, None, "numpy")
    turned = arrays.locate(array.T, "x")
    np.testing.assert_array_equal(turned.keep, array.T)
    assert turned.keep.flags.c_contiguous
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(array)
    assert arrays.locate(tensor, "x")[:3] == (array.ctypes.data, None, "torch")
    with pytest.raises(InputError, match="not contiguous"):
        arrays.locate(tensor.T, "x")
    with pytest.raises(InputError, match="is on meta; accepted: cpu and cuda"):
        arrays.locate(torch.empty(3, device="meta"), "x")
    with pytest.raises(InputError, match="is a list; accepted: numpy, torch, CuPy and DLPack arrays"):
        arrays.locate([1.0], "x")


def test_the_cuda_array_interface_is_read() -> None:
    class Foreign:
        def __init__(self, strides: Any) -> None:
            self.__cuda_array_interface__ = {
                "data": (4096, False), "shape": (2, 3), "typestr": "<f4", "strides": strides, "version": 3,
            }  # fmt: skip

    for strides in (None, (12, 4)):
        assert arrays.locate(Foreign(strides), "x")[:3] == (4096, 0, "dlpack")
    with pytest.raises(InputError, match="not contiguous"):
        arrays.locate(Foreign((4, 8)), "x")


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
def test_our_memory_is_used_in_place(dtype: str) -> None:
    words = np.ones((2, 3), dtype)
    freed: list[int] = []
    memory = dlpack.Memory(
        words.ctypes.data, (2, 3), dtype, dlpack.CPU, 0, lambda: freed.append(words.ctypes.data)
    )
    taken: Any = np.from_dlpack(memory)
    assert taken.dtype == dtype
    assert taken.ctypes.data == words.ctypes.data
    words[1, 2] = 0
    np.testing.assert_array_equal(taken, words)
    del memory
    gc.collect()
    assert not freed  # numpy still has it
    del taken
    gc.collect()
    assert freed == [words.ctypes.data]


def test_memory_that_nobody_took_is_freed() -> None:
    words = (ctypes.c_float * 6)()
    freed: list[bool] = []
    memory = dlpack.Memory(
        ctypes.addressof(words), (6,), "float32", dlpack.CPU, 0, lambda: freed.append(True)
    )
    capsule = memory.__dlpack__()
    del memory
    gc.collect()
    assert not freed
    del capsule
    gc.collect()
    assert freed == [True]


def test_our_memory_goes_to_torch() -> None:
    torch = pytest.importorskip("torch")
    words = np.arange(6, dtype=np.uint16).reshape(2, 3)
    for dtype in ("bfloat16", "float16"):
        memory = dlpack.Memory(words.ctypes.data, (2, 3), dtype, dlpack.CPU, 0, lambda: None)
        tensor = torch.from_dlpack(memory)
        assert str(tensor.dtype) == f"torch.{dtype}"
        assert tensor.data_ptr() == words.ctypes.data


def test_the_profile_that_fits_best() -> None:
    profiles = ({"n": Range(1, 8, 64)}, {"n": Range(4, 8, 16)}, {"n": Range(128, 128, 256)})
    assert [choose_profile(profiles, {"n": n}, "tensorrt") for n in (1, 4, 16, 17, 200)] == [0, 1, 1, 0, 2]
    assert choose_profile((), {}, "tensorrt") == 0
    with pytest.raises(
        InputError,
        match=r"n 100 .*outside the engine's profiles \(n 1:8:64 \| n 4:8:16 \| n 128:128:256\); "
        "build one that holds it: edgetx build PKG --runtime tensorrt --range",
    ):
        choose_profile(profiles, {"n": 100}, "tensorrt")


def test_devices() -> None:
    assert [device_index(Target(device=each)) for each in ("cuda", "cuda:2")] == [0, 2]
    with pytest.raises(InputError, match="unknown device 'cuda:x'"):
        device_index(Target(device="cuda:x"))


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed")
@pytest.mark.filterwarnings("ignore:.*no-ops in TensorRT-RTX:DeprecationWarning")
def test_times_of_earlier_builds(tmp_path: Path) -> None:
    """With TensorRT-RTX, where they are kept and given back but mean nothing: it builds without a GPU."""
    import tensorrt_rtx as trt

    from edgetx.runtimes.nvidia import log

    builder = trt.Builder(log.make(trt))
    config = builder.create_builder_config()
    file = tmp_path / "times.cache"
    assert not worker.read_times(config, file)
    worker.write_times(config, file)
    assert file.stat().st_size > 0
    assert worker.read_times(builder.create_builder_config(), file)
    worker.write_times(config, tmp_path / "missing" / "times.cache")  # lost, and that is all
    assert [path.name for path in tmp_path.iterdir()] == ["times.cache"]


@pytest.mark.parametrize(
    "cause",
    [
        "Error Code 2: OutOfMemory (Requested size was 8589934592 bytes.)",
        "[virtualMemoryBuffer.cpp] std::bad_alloc",
        "insufficient memory to build",
    ],
)
def test_lack_of_memory_says_what_to_lower(cause: str) -> None:
    class Parsed:
        class log:  # noqa: N801 - an attribute of the real one
            @staticmethod
            def cause() -> str:
                return cause

    error = worker._failure(Parsed, "swin")  # type: ignore[arg-type]
    assert "not enough memory to build swin" in str(error)
    assert child.LOWER in str(error)
