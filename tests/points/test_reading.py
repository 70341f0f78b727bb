"""Sweeps from files of every format, whole and broken."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgetx.errors import InputError
from edgetx.points import read_points
from edgetx.points.pcd import decompress

POINTS = np.float32([[1.5, -2, 0.25, 0.5], [3, 4, -1, 0], [-7, 8.5, 2, 0.99]])


def write_bin(path: Path, points: np.ndarray) -> None:
    points.astype("<f4").tofile(path)


def pcd_header(fields: str, sizes: str, types: str, count: int, kind: str) -> bytes:
    counts = " ".join("1" for _ in fields.split())
    return (
        f"# .PCD v0.7\nVERSION 0.7\nFIELDS {fields}\nSIZE {sizes}\nTYPE {types}\nCOUNT {counts}\n"
        f"WIDTH {count}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {count}\nDATA {kind}\n"
    ).encode()


def literals(data: bytes) -> bytes:
    """An LZF block without references."""
    chunks = [data[start : start + 32] for start in range(0, len(data), 32)]
    return b"".join(bytes([len(chunk) - 1]) + chunk for chunk in chunks)


def ascii_pcd(path: Path, points: np.ndarray) -> None:
    rows = "".join(" ".join(f"{value:.9g}" for value in row) + "\n" for row in points)
    header = pcd_header("x y z intensity", "4 4 4 4", "F F F F", len(points), "ascii")
    path.write_bytes(header + rows.encode())


def binary_pcd(path: Path, points: np.ndarray) -> None:
    """With fields that nobody asked for, and the intensity as bytes before the coordinates."""
    record = np.dtype([("intensity", "u1"), ("x", "<f8"), ("y", "<f4"), ("z", "<f4"), ("ring", "<u2")])
    rows = np.zeros(len(points), record)
    for index, name in enumerate(("x", "y", "z")):
        rows[name] = points[:, index]
    rows["intensity"] = np.round(points[:, 3] * 100)
    header = pcd_header("intensity x y z ring", "1 8 4 4 2", "U F F F U", len(points), "binary")
    path.write_bytes(header + rows.tobytes())


def compressed_pcd(path: Path, points: np.ndarray) -> None:
    data = points.astype("<f4").T.tobytes()
    block = literals(data)
    header = pcd_header("x y z intensity", "4 4 4 4", "F F F F", len(points), "binary_compressed")
    path.write_bytes(header + struct.pack("<II", len(block), len(data)) + block)


def write_las(path: Path, points: np.ndarray, version: tuple[int, int] = (1, 2), kind: int = 1) -> None:
    """Coordinates in millimetres from (100, 0, 0); records of 28 bytes."""
    size = 375 if version >= (1, 4) else 227
    header = bytearray(size)
    header[:4] = b"LASF"
    header[24:26] = bytes(version)
    struct.pack_into("<HI", header, 94, size, size)
    struct.pack_into("<BHI", header, 104, kind, 28, 0 if version >= (1, 4) else len(points))
    struct.pack_into("<6d", header, 131, 0.001, 0.001, 0.001, 100, 0, 0)
    if version >= (1, 4):
        struct.pack_into("<Q", header, 247, len(points))
    rows = b"".join(
        struct.pack("<iiiH14x", *(round(v * 1000) for v in (x - 100, y, z)), round(i * 100))
        for x, y, z, i in points.tolist()
    )
    path.write_bytes(bytes(header) + rows)


def test_bin(tmp_path: Path) -> None:
    write_bin(tmp_path / "a.bin", POINTS)
    cloud = read_points(tmp_path / "a.bin", 4)
    np.testing.assert_array_equal(cloud.points, POINTS)
    assert (cloud.read, cloud.dropped_nonfinite, cloud.path) == (3, 0, str(tmp_path / "a.bin"))
    assert cloud.points.dtype == np.float32 and cloud.points.flags.c_contiguous


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4"])
def test_npy(dtype: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", POINTS.astype(dtype))
    np.testing.assert_array_equal(read_points(tmp_path / "a.npy", 4).points, POINTS)


@pytest.mark.parametrize(
    ("write", "scale"),
    [(ascii_pcd, 1), (binary_pcd, 100), (compressed_pcd, 1)],
    ids=["ascii", "binary", "compressed"],
)
def test_pcd(write: Callable[[Path, np.ndarray], None], scale: float, tmp_path: Path) -> None:
    write(tmp_path / "a.pcd", POINTS)
    points = read_points(tmp_path / "a.pcd", 4).points
    np.testing.assert_allclose(points / [1, 1, 1, scale], POINTS, rtol=1e-6)


def test_pcd_with_five_columns(tmp_path: Path) -> None:
    binary_pcd(tmp_path / "a.pcd", POINTS)
    assert read_points(tmp_path / "a.pcd", 5).points.shape == (3, 5)
    ascii_pcd(tmp_path / "b.pcd", POINTS)
    with pytest.raises(InputError, match=r"takes five, and the fifth \(ring, .*\) is missing"):
        read_points(tmp_path / "b.pcd", 5)


def test_lzf_references() -> None:
    # abc, then 7 bytes from 3 back, which overlap what they make, then 200 of the last one.
    block = bytes([2, *b"abc", (5 << 5), 2, 7 << 5, 200 - 9, 0])
    assert decompress(block, 210) == b"abc" + b"abcabca" + b"a" * 200
    for broken in (bytes([1 << 5, 5]), block[:-1], b"\x05abc"):
        with pytest.raises((ValueError, IndexError)):
            decompress(broken, 210)


@pytest.mark.parametrize("version", [(1, 2), (1, 4)])
def test_las(version: tuple[int, int], tmp_path: Path) -> None:
    write_las(tmp_path / "a.las", POINTS, version)
    points = read_points(tmp_path / "a.las", 4).points
    np.testing.assert_allclose(points, POINTS * np.float32([1, 1, 1, 100]), atol=1e-3)


def test_las_as_others_write_it(tmp_path: Path) -> None:
    laspy = pytest.importorskip("laspy")
    written = laspy.LasData(laspy.LasHeader(point_format=6, version="1.4"))
    written.x, written.y, written.z = POINTS[:, :3].T
    written.intensity = np.uint16([1, 2, 65535])
    written.write(tmp_path / "a.las")
    points = read_points(tmp_path / "a.las", 4).points
    np.testing.assert_allclose(points[:, :3], POINTS[:, :3], atol=0.01)
    assert points[:, 3].tolist() == [1, 2, 65535]


def test_an_empty_cloud(tmp_path: Path) -> None:
    write_bin(tmp_path / "a.bin", POINTS[:0])
    np.save(tmp_path / "a.npy", POINTS[:0])
    for write in (ascii_pcd, binary_pcd, compressed_pcd):
        write(tmp_path / "a.pcd", POINTS[:0])
        assert read_points(tmp_path / "a.pcd", 4).points.shape == (0, 4)
    write_las(tmp_path / "a.las", POINTS[:0])
    for name in ("a.bin", "a.npy", "a.las"):
        assert read_points(tmp_path / name, 4).points.shape == (0, 4)


def test_points_that_are_not_finite_are_dropped_and_counted(tmp_path: Path) -> None:
    points = np.repeat(POINTS, 2, axis=0).astype(np.float64)
    points[0, 0], points[2, 3], points[3, 2], points[4, 1] = np.nan, np.inf, -np.inf, 1e300
    np.save(tmp_path / "a.npy", points)
    cloud = read_points(tmp_path / "a.npy", 4)
    assert (cloud.dropped_nonfinite, cloud.read) == (4, 6)
    np.testing.assert_array_equal(cloud.points, np.float32(points[[1, 5]]))


def test_missing_returns_are_no_integers(tmp_path: Path) -> None:
    """A `.bin` of zeros, and one that is mostly NaN, of either sign."""
    points = np.repeat(POINTS, 100, axis=0)
    points[3:] = np.nan
    points[5::2] = -points[5::2]
    write_bin(tmp_path / "a.bin", points)
    assert read_points(tmp_path / "a.bin", 4).dropped_nonfinite == 297
    write_bin(tmp_path / "a.bin", np.zeros((7, 4)))
    assert read_points(tmp_path / "a.bin", 4).read == 7


def test_a_truncated_bin_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(POINTS.tobytes()[:-3])
    with pytest.raises(InputError, match=r"a\.bin has 45 bytes.*may be truncated"):
        read_points(tmp_path / "a.bin", 4)


def test_a_wrong_number_of_columns_says_which_fits(tmp_path: Path) -> None:
    write_bin(tmp_path / "a.bin", np.zeros((3, 5)))
    with pytest.raises(InputError, match=r"would fit 5 columns \(nuScenes\)"):
        read_points(tmp_path / "a.bin", 4)
    np.save(tmp_path / "a.npy", np.zeros((3, 5), np.float32))
    with pytest.raises(InputError, match=r"shape \[3, 5\]; this model takes \[points, 4\]"):
        read_points(tmp_path / "a.npy", 4)


@pytest.mark.parametrize(("columns", "other"), [(4, 5), (5, 4)])
def test_a_length_that_fits_both_numbers_of_columns_is_told_apart(
    columns: int, other: int, tmp_path: Path
) -> None:
    points = np.random.default_rng(0).uniform(-50, 50, (40, columns))
    points[:, 3] = np.abs(points[:, 3])
    write_bin(tmp_path / "a.bin", points)
    assert read_points(tmp_path / "a.bin", columns).read == 40
    with pytest.raises(InputError, match=f"negative intensities .* none as {columns}"):
        read_points(tmp_path / "a.bin", other)


def test_integers_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", POINTS.astype(np.int32))
    with pytest.raises(InputError, match=r"holds integers \(int32\); give float32"):
        read_points(tmp_path / "a.npy", 4)
    points = np.random.default_rng(0).uniform((-80, -80, -3, 0), (80, 80, 1, 1), (500, 4)) * 1000
    for dtype in (np.int32, np.int64):
        points.astype(dtype).tofile(tmp_path / "a.bin")
        with pytest.raises(InputError, match=r"a\.bin holds integers where float32 is expected"):
            read_points(tmp_path / "a.bin", 4)
    header = pcd_header("x y z intensity", "4 4 4 4", "I I I F", 1, "binary")
    (tmp_path / "a.pcd").write_bytes(header + bytes(16))
    with pytest.raises(InputError, match=r"field x holds integers"):
        read_points(tmp_path / "a.pcd", 4)


@pytest.mark.parametrize("write", [ascii_pcd, binary_pcd, compressed_pcd, write_las])
def test_truncated_files_say_so(write: Callable[[Path, np.ndarray], None], tmp_path: Path) -> None:
    path = tmp_path / ("a.las" if write is write_las else "a.pcd")
    write(path, POINTS)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match=r"truncated|damaged"):
        read_points(path, 4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pcd", b"no header", r"no \.pcd file"),
        ("a.pcd", pcd_header("x y z", "4 4 4", "F F F", 0, "ascii"), "an intensity .* is missing"),
        ("a.pcd", pcd_header("x y intensity", "4 4 4", "F F F", 0, "ascii"), "z is missing"),
        ("a.pcd", pcd_header("x y z intensity", "4 4 4", "F F F F", 0, "ascii"), "do not fit together"),
        ("a.pcd", pcd_header("x y z intensity", "4 4 4 4", "F F F F", 0, "zip"), "DATA zip"),
        ("a.pcd", pcd_header("x y z i", "4 4 4 4", "F F F F", 10**15, "binary"), "is truncated: 0 of"),
        ("a.pcd", pcd_header("x y z i", "4 4 4 4", "F F F F", 10**15, "binary_compressed"), "truncated"),
        ("a.npy", b"no array", "cannot be read as .npy"),
        ("a.las", b"LASF", "no LAS file"),
        ("a.txt", b"1 2 3 4", "accepted: .bin, .npy, .pcd, .las"),
    ],
)
def test_what_is_no_sweep(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_points(tmp_path / name, 4)


def test_compressed_las_and_missing_files(tmp_path: Path) -> None:
    write_las(tmp_path / "a.las", POINTS, kind=0x81)
    with pytest.raises(InputError, match="compressed"):
        read_points(tmp_path / "a.las", 4)
    with pytest.raises(InputError, match="is not a file"):
        read_points(tmp_path / "b.las", 4)


@pytest.mark.parametrize(
    ("name", "columns", "count"),
    [("kitti_000134", 4, 19097), ("kitti_360_000000", 4, 124668), ("nuscenes_n015", 5, 34688)],
)
def test_real_sweeps(name: str, columns: int, count: int, shared_data: Path) -> None:
    path = shared_data / "lidar" / f"{name}.bin"
    cloud = read_points(path, columns)
    assert (cloud.read, cloud.dropped_nonfinite) == (count, 0)
    with pytest.raises(InputError, match="columns"):
        read_points(path, 9 - columns)
