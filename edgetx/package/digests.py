"""The digests of a file: SHA-256 is its identity, CRC-32 finds a damaged copy several times as fast."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache

BLOCK = 1 << 20
"""Bytes read at a time: both digests let other threads run for blocks as large as this."""


def crc32(file: str | os.PathLike[str]) -> str:
    """CRC-32 as of zlib, gzip and PNG: 8 lowercase hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    if (native := _native()) is not None:
        return f"{native(file):08x}"
    import zlib  # as hashlib below: not for every session

    value = 0
    for block in _blocks(file):
        value = zlib.crc32(block, value)
    return f"{value:08x}"


def sha256(file: str | os.PathLike[str]) -> str:
    """SHA-256: 64 lowercase hexadecimal digits; raises as `crc32`."""
    return digests(file)[0]


def digests(file: str | os.PathLike[str]) -> tuple[str, str]:
    """SHA-256 and CRC-32 of a file that is read once; raises as `crc32`."""
    import hashlib  # opening a package needs it only where the manifest has no CRC-32
    import zlib

    identity, value = hashlib.sha256(), 0
    for block in _blocks(file):
        identity.update(block)
        value = zlib.crc32(block, value)
    return identity.hexdigest(), f"{value:08x}"


@cache
def _native() -> Callable[[str | os.PathLike[str]], int] | None:
    """The native library's CRC-32 of a file, if it is there: the other threads never wait for this one."""
    import ctypes

    from edgetx.errors import UnavailableError
    from edgetx.ops import library

    try:
        function = ctypes.CDLL(library.path() or "").edgetx_crc32_of_file
    except (UnavailableError, OSError, AttributeError):
        return None
    function.argtypes = ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint32)
    function.restype = ctypes.c_int

    def crc32(file: str | os.PathLike[str]) -> int:
        value = ctypes.c_uint32()
        if error := function(os.fsencode(file), ctypes.byref(value)):
            raise OSError(error, os.strerror(error), str(file))
        return value.value

    return crc32


def _blocks(file: str | os.PathLike[str]) -> Iterator[memoryview]:
    """The file's bytes, each block valid until the next is asked for."""
    block = memoryview(bytearray(BLOCK))
    with open(file, "rb", buffering=0) as stream:
        while count := stream.readinto(block):
            yield block[:count]
