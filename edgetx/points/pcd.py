"""PCL's .pcd files, version 0.6 and 0.7: ascii, binary and binary_compressed.

The format is described at pointclouds.org ("The PCD file format"). VIEWPOINT is not applied: points stay in
the frame that they are written in.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from edgetx.errors import InputError
from edgetx.points._columns import choose

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_TYPES = {
    ("F", 4): "<f4", ("F", 8): "<f8", ("I", 1): "i1", ("I", 2): "<i2", ("I", 4): "<i4", ("I", 8): "<i8",
    ("U", 1): "u1", ("U", 2): "<u2", ("U", 4): "<u4", ("U", 8): "<u8",
}  # fmt: skip
_LONGEST_HEADER = 64
"""Lines; a .pcd file has about ten."""


@dataclass(frozen=True)
class _Field:
    name: str
    dtype: str
    count: int


def read_pcd(path: str, columns: int) -> Array:
    """Float64 or float32 `[points, columns]` of the fields x, y, z, intensity and, for five, one more.

    Raises:
        InputError: no .pcd file, a truncated or damaged one, a field that is missing, or integer coordinates.
    """
    import numpy as np

    with open(path, "rb") as file:
        header = _header(path, file)
        fields, points = _fields(path, header), _count(path, header)
        names = choose(path, [field.name for field in fields if field.count == 1], columns)
        for field in fields:
            if field.name in names[:3] and "f" not in field.dtype:
                raise InputError(
                    f"{path}: the field {field.name} holds integers; give metres as floats (TYPE F)"
                )
        kind = header["DATA"][0].lower() if header["DATA"] else ""
        readers = {"ascii": _ascii, "binary": _binary, "binary_compressed": _compressed}
        if kind not in readers:
            raise InputError(f"{path}: DATA {kind}: accepted are {', '.join(readers)}")
        values = readers[kind](path, file, fields, points)
    by_name = {field.name: value for field, value in zip(fields, values, strict=True)}
    with np.errstate(over="ignore"):
        return np.stack([by_name[name].astype(np.float32).reshape(-1) for name in names], axis=1)


def _header(path: str, file: BinaryIO) -> dict[str, list[str]]:
    """Keyword -> words, up to and with DATA."""
    header: dict[str, list[str]] = {}
    for _ in range(_LONGEST_HEADER):
        words = file.readline(4096).decode("latin-1").split()
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
            if words[0].upper() == "DATA":
                break
    if missing := [key for key in ("FIELDS", "SIZE", "TYPE", "DATA") if key not in header]:
        raise InputError(
            f"{path} is no .pcd file: its header has no {missing[0]}; give a file that PCL wrote"
        )
    return header


def _fields(path: str, header: dict[str, list[str]]) -> list[_Field]:
    names, sizes, types = header["FIELDS"], header["SIZE"], header["TYPE"]
    counts = header.get("COUNT", ["1"] * len(names))
    try:
        return [
            _Field(name, _TYPES[kind.upper(), int(size)], int(count))
            for name, size, kind, count in zip(names, sizes, types, counts, strict=True)
        ]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path}: FIELDS, SIZE, TYPE and COUNT of its header do not fit together: {names}, {sizes}, "
            f"{types}, {counts}"
        ) from error


def _count(path: str, header: dict[str, list[str]]) -> int:
    try:
        if header.get("POINTS"):
            points = int(header["POINTS"][0])
        else:
            points = int(header["WIDTH"][0]) * int(header["HEIGHT"][0])
        if points >= 0:
            return points
    except (KeyError, IndexError, ValueError):
        pass
    raise InputError(f"{path}: its header does not say how many POINTS there are")


def _ascii(path: str, file: BinaryIO, fields: list[_Field], points: int) -> list[Array]:
    import numpy as np

    width = sum(field.count for field in fields)
    text = file.read().decode("latin-1")
    if not text.strip():
        values = np.empty((0, width))
    else:
        try:
            values = np.loadtxt(io.StringIO(text), np.float64, ndmin=2)
        except ValueError as error:
            raise InputError(f"{path} is damaged: {error}; get a fresh copy") from error
    if values.shape != (points, width):
        raise InputError(
            f"{path} is truncated or damaged: it holds {len(values)} points of {values.shape[1]} values, its "
            f"header says {points} of {width}; get a fresh copy"
        )
    ends = np.cumsum([field.count for field in fields])
    return [values[:, end - field.count : end] for field, end in zip(fields, ends, strict=True)]


def _binary(path: str, file: BinaryIO, fields: list[_Field], points: int) -> list[Array]:
    import numpy as np

    record = np.dtype([(f"f{index}", field.dtype, (field.count,)) for index, field in enumerate(fields)])
    values = np.frombuffer(_read(path, file, points * record.itemsize), record, points)
    return [values[name] for name in values.dtype.names or ()]


def _compressed(path: str, file: BinaryIO, fields: list[_Field], points: int) -> list[Array]:
    """The fields one after the other, as one LZF block behind its two sizes."""
    import numpy as np

    sizes = np.frombuffer(_read(path, file, 8), "<u4")
    expected = points * sum(np.dtype(field.dtype).itemsize * field.count for field in fields)
    if int(sizes[1]) != expected:
        raise InputError(
            f"{path} is damaged: {int(sizes[1])} bytes are compressed, its header needs {expected}; "
            "get a fresh copy"
        )
    block = _read(path, file, int(sizes[0]))
    try:
        data = decompress(block, expected)
    except (IndexError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error}; get a fresh copy") from error
    values, start = [], 0
    for field in fields:
        length = points * field.count
        values.append(np.frombuffer(data, field.dtype, length, start).reshape(points, field.count))
        start += values[-1].nbytes
    return values


def _read(path: str, file: BinaryIO, size: int) -> bytes:
    """Exactly `size` bytes; a header that promises more than there is costs no memory."""
    there = os.fstat(file.fileno()).st_size - file.tell()
    if there < size:
        raise InputError(
            f"{path} is truncated: {there} of {size} bytes of points are there; get a fresh copy"
        )
    return file.read(size)


def decompress(block: bytes, size: int) -> bytes:
    """Undo LibLZF's compression to exactly `size` bytes.

    A control byte below 32 begins that many literals and one more; else its upper 3 bits (7: plus the next
    byte) and 2 are a length, and its lower 5 bits with the byte after it a distance back, less 1.

    Raises:
        IndexError, ValueError: the block is damaged.
    """
    out = bytearray()
    at, end = 0, len(block)
    while at < end:
        control = block[at]
        at += 1
        if control < 32:
            out += block[at : at + control + 1]
            at += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += block[at]
            at += 1
        length += 2
        start = len(out) - ((control & 31) << 8) - block[at] - 1
        at += 1
        if start < 0:
            raise ValueError("a reference of its compressed block leads before its beginning")
        chunk = out[start : start + length]
        while len(chunk) < length:
            chunk += chunk[: length - len(chunk)]
        out += chunk
        if len(out) > size:
            break
    if len(out) != size:
        raise ValueError(f"its compressed block gives {len(out)} bytes instead of {size}")
    return bytes(out)
