"""The digests of a file: SHA-256 is its identity, CRC-32 finds a damaged copy several times as fast."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

BLOCK = 1 << 20
"""Bytes read at a time: both digests let other threads run for blocks as large as this."""


def crc32(file: Path) -> str:
    """CRC-32 as of zlib, gzip and PNG: 8 lowercase hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    add, value = _crc32(), 0
    for block in _blocks(file):
        value = add(block, value)
    return f"{value:08x}"


def sha256(file: Path) -> str:
    """SHA-256: 64 lowercase hexadecimal digits; raises as `crc32`."""
    return digests(file)[0]


def digests(file: Path) -> tuple[str, str]:
    """SHA-256 and CRC-32 of a file that is read once; raises as `crc32`."""
    import hashlib  # opening a package needs it only where the manifest has no CRC-32

    identity, value = hashlib.sha256(), 0
    for block in _blocks(file):
        identity.update(block)
        value = zlib.crc32(block, value)
    return identity.hexdigest(), f"{value:08x}"


@cache
def _crc32() -> Callable[[memoryview, int], int]:
    """`zlib.crc32`, or the native library's, which takes a fifth of the time where it has it."""
    import ctypes

    from edgetx.errors import UnavailableError
    from edgetx.ops import library

    try:
        native = ctypes.CDLL(library.path() or "").edgetx_crc32
    except (UnavailableError, OSError, AttributeError):
        return zlib.crc32
    native.argtypes = ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t
    native.restype = ctypes.c_uint32

    def add(block: memoryview, value: int) -> int:
        # ctypes lets other threads run meanwhile.
        added: int = native(value, (ctypes.c_char * len(block)).from_buffer(block), len(block))
        return added

    return add


def _blocks(file: Path) -> Iterator[memoryview]:
    """The file's bytes, each block valid until the next is asked for."""
    block = memoryview(bytearray(BLOCK))
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(block):
            yield block[:count]
