"""As much of the CUDA driver as a session needs, through ctypes: no CUDA toolkit, no other package."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from edgetx.errors import EdgetxError, UnavailableError

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_OUT_OF_MEMORY = 2
_CAPTURE_THREAD = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


class Gpu(NamedTuple):
    """One GPU: its name and compute capability, such as `8.6`."""

    name: str
    compute: str


@functools.cache
def _load() -> Any | str:
    """The driver, or why there is none."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return f"no NVIDIA driver: {name} is not there"
    code = int(driver.cuInit(0))
    return driver if code == 0 else f"the NVIDIA driver does not start: {_text(driver, code)}"


def why_none() -> str:
    """Why `devices` is empty."""
    loaded = _load()
    return loaded if isinstance(loaded, str) else "the NVIDIA driver finds no GPU"


@functools.cache
def devices() -> tuple[Gpu, ...]:
    """The GPUs, by CUDA's index; () without a driver."""
    driver = _load()
    if isinstance(driver, str):
        return ()
    count = ctypes.c_int()
    _check(driver, driver.cuDeviceGetCount(ctypes.byref(count)), "count the GPUs")
    found = []
    for index in range(count.value):
        name, major, minor = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
        _check(driver, driver.cuDeviceGetName(name, 256, index), "read a GPU's name")
        for value, attribute in ((major, _MAJOR), (minor, _MINOR)):
            code = driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, index)
            _check(driver, code, "read a GPU's compute capability")
        found.append(Gpu(name.value.decode(), f"{major.value}.{minor.value}"))
    return tuple(found)


def driver() -> str:
    """The newest CUDA that the driver runs, as `CUDA 12.6`; `none` without one."""
    loaded = _load()
    if isinstance(loaded, str):
        return "none"
    version = ctypes.c_int()
    _check(loaded, loaded.cuDriverGetVersion(ctypes.byref(version)), "read its version")
    return f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"


class Device:
    """The primary context of one GPU, a stream, and buffers that grow.

    Calls are made inside `current`, which makes the context that of the calling thread.
    """

    def __init__(self, index: int) -> None:
        driver = _load()
        if isinstance(driver, str):
            raise UnavailableError(driver)
        self._driver = driver
        self._index = index
        self._context, self._stream = ctypes.c_void_p(), ctypes.c_void_p()
        self._buffers: dict[str, tuple[ctypes.c_uint64, int]] = {}
        self._call("take the GPU", "cuDevicePrimaryCtxRetain", ctypes.byref(self._context), index)
        with self.current():
            self._call("make a stream", "cuStreamCreate", ctypes.byref(self._stream), 0)

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream.value or 0)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU's context the thread's while the block runs."""
        self._call("use the GPU", "cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def buffer(self, name: str, size: int) -> int:
        """The address of at least `size` bytes (and one) under this name."""
        address, have = self._buffers.get(name, (ctypes.c_uint64(), 0))
        if have < max(size, 1):
            if have:
                del self._buffers[name]
                self._call("free memory", "cuMemFree_v2", address)
            self._call(
                f"take {size} bytes", "cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1))
            )
            self._buffers[name] = (address, max(size, 1))
        return address.value

    def allocate(self, size: int) -> int:
        """The address of `size` bytes (and one) of their own; `releaser` gives them back."""
        address = ctypes.c_uint64()
        self._call(
            f"take {size} bytes", "cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1))
        )
        return address.value

    def releaser(self, address: int) -> Callable[[], None]:
        """What frees memory of `allocate`, from any thread, also after `close`."""
        driver, index = self._driver, self._index

        def release() -> None:
            context = ctypes.c_void_p()
            driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), index)
            driver.cuCtxPushCurrent_v2(context)
            driver.cuMemFree_v2(ctypes.c_uint64(address))
            driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
            driver.cuDevicePrimaryCtxRelease_v2(index)

        return release

    def capture(self, work: Callable[[], bool]) -> tuple[Any, str]:
        """What `work` queues, as a CUDA graph, or None and why it is none; nothing is run."""
        graph, made = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("begin a CUDA graph", "cuStreamBeginCapture_v2", self._stream, _CAPTURE_THREAD)
        queued = work()
        code = int(self._driver.cuStreamEndCapture(self._stream, ctypes.byref(graph)))
        if code == 0 and queued:
            code = int(
                self._driver.cuGraphInstantiateWithFlags(ctypes.byref(made), graph, ctypes.c_uint64(0))
            )
        if graph.value is not None:
            self._driver.cuGraphDestroy(graph)
        if code != 0:
            return None, _text(self._driver, code)
        return (made, "") if queued else (None, "the engine refuses to be captured")

    def launch(self, graph: Any) -> None:
        """Queue a graph of `capture`."""
        self._call("run a CUDA graph", "cuGraphLaunch", graph, self._stream)

    def destroy(self, graph: Any) -> None:
        """Free a graph of `capture`."""
        self._driver.cuGraphExecDestroy(graph)

    def upload(self, address: int, host: int, size: int) -> None:
        """Queue a copy to the GPU; the host's memory must live until `wait`."""
        self._copy("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), ctypes.c_void_p(host), size)

    def download(self, host: int, address: int, size: int) -> None:
        """Queue a copy from the GPU; the host's memory is complete after `wait`."""
        self._copy("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(host), ctypes.c_uint64(address), size)

    def wait(self) -> None:
        """Wait for all that was queued."""
        self._call("run", "cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        if self._context.value is None:
            return
        with self.current():
            for address, _ in self._buffers.values():
                self._driver.cuMemFree_v2(address)
            self._driver.cuStreamDestroy_v2(self._stream)
        self._buffers.clear()
        self._driver.cuDevicePrimaryCtxRelease_v2(self._index)
        self._context = ctypes.c_void_p()

    def _copy(self, function: str, to: Any, source: Any, size: int) -> None:
        if size:
            self._call(f"copy {size} bytes", function, to, source, ctypes.c_size_t(size), self._stream)

    def _call(self, what: str, function: str, *arguments: Any) -> None:
        _check(self._driver, getattr(self._driver, function)(*arguments), what)


def _check(driver: Any, code: int, what: str) -> None:
    if code == _OUT_OF_MEMORY:
        raise EdgetxError(f"the GPU is out of memory (to {what}); use a smaller batch or image")
    if code != 0:
        raise EdgetxError(f"the NVIDIA driver failed to {what}: {_text(driver, code)}")


def _text(driver: Any, code: int) -> str:
    text = ctypes.c_char_p()
    driver.cuGetErrorString(code, ctypes.byref(text))
    return text.value.decode() if text.value else f"CUDA error {code}"
