"""`libedgetx.so` through ctypes, with the structures of edgetx.h."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_double, c_int32, c_int64, c_size_t, c_uint8, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

OK, ARGUMENT, PACKAGE, UNAVAILABLE, ENGINE = range(5)
DTYPES = ("float32", "float16", "bfloat16", "float64", "int8", "uint8", "int32", "int64", "bool")


class Tensor(ctypes.Structure):
    _fields_ = (
        ("name", c_char_p),
        ("dtype", c_int32),
        ("rank", c_uint32),
        ("shape", c_int64 * 8),
        ("data", c_void_p),
        ("bytes", c_size_t),
    )

    @classmethod
    def of(cls, array: np.ndarray[Any, Any], name: str | None = None) -> Tensor:
        """A view; `array` must outlive it."""
        tensor = cls(None if name is None else name.encode())
        tensor.dtype = 1 + DTYPES.index(str(array.dtype))
        tensor.rank = array.ndim
        tensor.shape[: min(array.ndim, 8)] = array.shape[:8]
        tensor.data = array.ctypes.data
        tensor.bytes = array.nbytes
        return tensor

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy."""
        shape = tuple(self.shape[: self.rank])
        raw = ctypes.string_at(self.data, self.bytes)
        return np.frombuffer(raw, DTYPES[self.dtype - 1]).reshape(shape).copy()


class Dim(ctypes.Structure):
    _fields_ = (
        ("size", c_int64),
        ("symbol", c_char_p),
        ("min", c_int64),
        ("max", c_int64),
        ("step", c_int64),
    )


class Spec(ctypes.Structure):
    _fields_ = (("name", c_char_p), ("dtype", c_int32), ("rank", c_uint32), ("dims", Dim * 8))


class Image(ctypes.Structure):
    _fields_ = (("rgb", POINTER(c_uint8)), ("width", c_uint32), ("height", c_uint32), ("stride", c_size_t))

    @classmethod
    def of(cls, pixels: np.ndarray[Any, Any]) -> Image:
        """A view of uint8 `[height, width, 3]`, rows of any stride; `pixels` must outlive it."""
        pointer = ctypes.cast(pixels.ctypes.data, POINTER(c_uint8))
        return cls(pointer, pixels.shape[1], pixels.shape[0], pixels.strides[0])


class Class(ctypes.Structure):
    _fields_ = (("label", c_char_p), ("index", c_int64), ("probability", c_double))


class Options(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("backend", c_char_p),
        ("library", c_char_p),
        ("operators", c_char_p),
        ("threads", c_int32),
        ("device", c_int32),
    )


class CapiError(Exception):
    """A status that is not OK, with its text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Library:
    """The functions, with failures raised as `CapiError`."""

    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))
        for name in ("version", "last_error", "status_name", "package_name", "package_processor"):
            getattr(self.c, f"edgetx_{name}").restype = c_char_p
        self.c.edgetx_session_describe.restype = c_char_p
        self.c.edgetx_tensors_count.restype = c_size_t

    def check(self, status: int) -> None:
        if status != OK:
            raise CapiError(status, self.c.edgetx_last_error().decode())

    def call(self, name: str, *arguments: Any) -> None:
        self.check(getattr(self.c, f"edgetx_{name}")(*arguments))

    def make(self, name: str, *arguments: Any) -> c_void_p:
        """A function whose last argument takes a handle."""
        handle = c_void_p()
        try:
            self.call(name, *arguments, byref(handle))
        except CapiError:
            assert not handle.value, "a failure must leave the output as it was"
            raise
        return handle

    def open(self, folder: Path, flags: int = 0) -> c_void_p:
        return self.make("package_open", str(folder).encode(), flags)

    def session(self, package: c_void_p, **settings: Any) -> c_void_p:
        options = Options()
        self.c.edgetx_session_options_init(byref(options))
        for name, value in settings.items():
            setattr(options, name, value.encode() if isinstance(value, str) else value)
        return self.make("session_open", package, byref(options))

    def run(self, session: c_void_p, *tensors: Tensor) -> list[np.ndarray[Any, Any]]:
        given = (Tensor * max(len(tensors), 1))(*tensors)
        return self.take(self.make("session_run", session, given, c_size_t(len(tensors))))

    def preprocess(self, package: c_void_p, pixels: np.ndarray[Any, Any]) -> c_void_p:
        image = Image.of(pixels)
        return self.make("preprocess_rgb", package, byref(image))

    def arrays(self, tensors: c_void_p) -> list[np.ndarray[Any, Any]]:
        result = []
        for index in range(self.c.edgetx_tensors_count(tensors)):
            tensor = Tensor()
            self.call("tensors_get", tensors, c_size_t(index), byref(tensor))
            result.append(tensor.numpy())
        return result

    def take(self, tensors: c_void_p) -> list[np.ndarray[Any, Any]]:
        result = self.arrays(tensors)
        self.c.edgetx_tensors_free(tensors)
        return result
