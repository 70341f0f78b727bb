"""ASPRS LAS 1.0 to 1.4, uncompressed: coordinates and intensity.

Offsets are those of the LAS 1.4 R15 specification; in every point format a record begins with X, Y, Z (int32,
to be scaled and moved) and the intensity (uint16).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from edgetx.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_HEADER = 227
"""Bytes of the shortest header, that of LAS 1.0 to 1.2."""
_HEADER_1_4 = 375
_SHORTEST_RECORD = 20


def read_las(path: str, columns: int) -> Array:
    """Float64 `[points, 4]`: x, y, z in the file's units, intensity from 0 to 65535.

    Raises:
        InputError: five columns are wanted, no LAS file, LAZ, or a truncated file.
    """
    import numpy as np

    if columns != 4:
        raise InputError(
            f"{path}: LAS files have x, y, z and intensity; this model takes {columns} columns: give a .bin, "
            ".npy or .pcd file"
        )
    with open(path, "rb") as file:
        header = file.read(_HEADER_1_4)
        if header[:4] != b"LASF" or len(header) < _HEADER:
            raise InputError(f"{path} is no LAS file, or truncated in its header; get a fresh copy")
        (start,) = struct.unpack_from("<I", header, 96)
        kind, record, points = struct.unpack_from("<BHI", header, 104)
        scales = struct.unpack_from("<3d", header, 131)
        offsets = struct.unpack_from("<3d", header, 155)
        if (header[24], header[25]) >= (1, 4) and len(header) == _HEADER_1_4:
            points = struct.unpack_from("<Q", header, 247)[0] or points
        if kind & 0xC0:
            raise InputError(f"{path} is compressed (LAZ); decompress it first, e.g. with laszip or PDAL")
        if record < _SHORTEST_RECORD:
            raise InputError(f"{path} is damaged: its points have {record} bytes; get a fresh copy")
        file.seek(0, 2)
        if (there := max(file.tell() - start, 0)) < points * record:
            raise InputError(
                f"{path} is truncated: {there} of {points * record} bytes of points are there; "
                "get a fresh copy"
            )
        layout = np.dtype(
            {
                "names": ["xyz", "intensity"],
                "formats": [("<i4", (3,)), "<u2"],
                "offsets": [0, 12],
                "itemsize": record,
            }
        )
        file.seek(start)
        values = np.fromfile(file, layout, points)
    located = values["xyz"] * np.array(scales) + np.array(offsets)
    return np.concatenate([located, values["intensity"][:, None]], axis=1)
