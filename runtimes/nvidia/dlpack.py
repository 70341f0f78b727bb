"""DLPack without a framework: look into another library's array, and hand out memory of ours."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

CPU, CUDA = 1, 2
"""Kinds of devices (`DLDeviceType`)."""
_CODES = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "bool": 6}
_NAME = b"dltensor"


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("kind", ctypes.c_int32),
        ("index", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p)
_pointer_raw = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)


class View(NamedTuple):
    """Another library's array; its memory lives as long as `keep`."""

    address: int
    kind: int
    ordinal: int
    contiguous: bool
    keep: Any


def view(array: Any) -> View:
    """Look into an array that has `__dlpack__`; nothing is copied."""
    capsule = array.__dlpack__()
    tensor = ctypes.cast(_pointer(capsule, _NAME), ctypes.POINTER(_Managed)).contents.tensor
    shape = tensor.shape[: tensor.ndim]
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else packed(shape, 1)
    address = (tensor.data or 0) + tensor.offset
    return View(address, tensor.kind, tensor.index, _equal(shape, strides), (capsule, array))


def packed(shape: Sequence[int], size: int) -> tuple[int, ...]:
    """The strides of a contiguous array whose elements have this size."""
    strides = []
    for dim in reversed(shape):
        strides.append(size)
        size *= dim
    return tuple(reversed(strides))


def _equal(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether strides are those of a contiguous array; those of a size of 1 say nothing."""
    wanted = packed(shape, 1)
    return 0 in shape or all(
        dim == 1 or have == want for dim, have, want in zip(shape, strides, wanted, strict=True)
    )


def itemsize(typestr: str) -> int:
    """`<f4` -> 4."""
    return int(typestr[2:])


class Memory:
    """A contiguous block that other libraries use in place, through DLPack.

    `release(address)` is called when nobody has it any more.
    """

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        dtype: str,
        kind: int,
        index: int,
        release: Callable[[], None],
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self.address = address
        self._device = (kind, index)
        self._release = release

    def __del__(self) -> None:
        self._release()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, stream: Any = None, **_settings: Any) -> Any:
        """A capsule that owns this; `stream` needs no wait, since a run ends before it returns."""
        name = self.dtype.rstrip("0123456789")
        bits = int(self.dtype[len(name) :] or 8)
        ndim = len(self.shape)
        shape = (ctypes.c_int64 * ndim)(*self.shape)
        strides = (ctypes.c_int64 * ndim)(*packed(self.shape, 1))
        managed = _Managed(
            _Tensor(
                self.address, *self._device, ndim, _CODES[name], bits, 1,
                ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64)),
                ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64)), 0,
            ),
            None,
            ctypes.cast(_delete, ctypes.c_void_p),
        )  # fmt: skip
        _alive[ctypes.addressof(managed)] = (managed, shape, strides, self)
        return _capsule(ctypes.addressof(managed), _NAME, ctypes.cast(_destroy, ctypes.c_void_p))


_alive: dict[int, Any] = {}
"""What consumers still use."""


def _done(managed: Any) -> None:
    """The consumer has no more use for it."""
    _alive.pop(ctypes.addressof(managed.contents), None)


def _dropped(capsule: int) -> None:
    """A capsule goes that nobody consumed (a consumer renames it)."""
    if _is_valid(capsule, _NAME):
        _alive.pop(_pointer_raw(capsule, _NAME), None)


_delete, _destroy = _Deleter(_done), _Destructor(_dropped)
