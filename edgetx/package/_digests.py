"""The digests of a file: SHA-256 is its identity, CRC-32 finds a damaged copy several times as fast."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

BLOCK = 1 << 20
"""Bytes read at a time: both digests let other threads run for blocks as large as this."""


def crc32(file: Path) -> str:
    """CRC-32 as of zlib, gzip and PNG: 8 lowercase hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    value = 0
    for block in _blocks(file):
        value = zlib.crc32(block, value)
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


def _blocks(file: Path) -> Iterator[memoryview]:
    """The file's bytes, each block valid until the next is asked for."""
    block = memoryview(bytearray(BLOCK))
    with file.open("rb", buffering=0) as stream:
        while count := stream.readinto(block):
            yield block[:count]
