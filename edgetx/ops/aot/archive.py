"""The archive of compiled kernels: header, table of entries, images; `native/cuda/archive.h` reads it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from edgetx import files
from edgetx.ops.aot.compiler import Compiled

MAGIC = b"EDGETXK1"
HEADER = struct.Struct("<8sII")
ENTRY = struct.Struct("<32s64s12I2Q")
DTYPES = {"fp32": 0, "fp16": 1, "bf16": 2, "none": 3}
ALIGNMENT = 64


def write(kernels: Sequence[Compiled], path: Path) -> None:
    """Write atomically; the order stays, which is that in which tiles are preferred."""
    place = HEADER.size + len(kernels) * ENTRY.size
    entries, images = [], []
    for kernel in kernels:
        gap = -place % ALIGNMENT
        place += gap
        config = kernel.config
        entries.append(
            ENTRY.pack(
                config.kernel.encode(),
                kernel.arguments.encode(),
                kernel.capability,
                kernel.is_ptx,
                DTYPES[config.dtype],
                config.tile.queries,
                config.tile.keys,
                config.size,
                config.align,
                config.variant,
                config.tile.warps,
                kernel.shared,
                kernel.registers,
                kernel.spilled,
                place,
                len(kernel.image),
            )
        )
        images.append(b"\0" * gap + kernel.image)
        place += len(kernel.image)
    with files.writing(path, force=True) as stream:
        stream.write(HEADER.pack(MAGIC, len(kernels), ENTRY.size))
        stream.writelines(entries)
        stream.writelines(images)
