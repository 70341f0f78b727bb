"""`edgetx run` on sweeps."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from edgetx.cli import app
from edgetx.package import MANIFEST
from edgetx.points.pcd import read_pcd

CALIBRATION = """P2: 700 0 600 0 0 700 180 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0
"""


def command(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def text(result: Any) -> str:
    return " ".join(result.output.split())


@pytest.fixture
def file(sweep: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "sweep.bin"
    sweep.tofile(path)
    return path


def test_a_sweep_prints_what_was_found(detector: Path, file: Path) -> None:
    result = command("run", detector, file)
    assert result.exit_code == 0, result.output
    assert "500 points read, 0 not finite and 0 out of range dropped, 500 kept" in text(result)
    assert "3 detections" in result.output
    rows = [
        line.split()[:2]
        for line in result.output.splitlines()
        if line.split()[:1] in (["Car"], ["Pedestrian"])
    ]
    assert rows == [["Pedestrian", "0.990"], ["Car", "0.950"], ["Car", "0.920"]]
    assert "ONNX Runtime" in result.output or "ort" in result.output


def write_las(path: Path, points: np.ndarray) -> None:
    """LAS 1.2, coordinates in micrometres; its intensities are integers, and bright here is above 0.9."""
    header = bytearray(227)
    header[:4], header[24:26] = b"LASF", bytes((1, 2))
    struct.pack_into("<HI", header, 94, len(header), len(header))
    struct.pack_into("<BHI", header, 104, 1, 28, len(points))
    struct.pack_into("<6d", header, 131, 1e-6, 1e-6, 1e-6, 0, 0, 0)
    records = [
        struct.pack("<iiiH14x", *(round(float(v) * 1e6) for v in (x, y, z)), round(float(i)))
        for x, y, z, i in points
    ]
    path.write_bytes(bytes(header) + b"".join(records))


def test_a_las_file(detector: Path, sweep: np.ndarray, tmp_path: Path) -> None:
    points = sweep.copy()
    points[:, 3] = 0
    points[[10, 200, 300], 3] = 2, 3, 1
    write_las(tmp_path / "a.las", points)
    (row,) = json.loads(command("run", detector, tmp_path / "a.las", "--json").stdout)
    assert [each["label"] for each in row["detections"]] == ["Pedestrian", "Car", "Car"]
    np.testing.assert_allclose(row["detections"][0]["center"], sweep[200, :3], atol=1e-5)


@pytest.mark.parametrize("name", ["a.npy", "a.pcd", "a.bin"])
def test_formats(name: str, detector: Path, sweep: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith(".npy"):
        np.save(path, sweep)
    elif name.endswith(".bin"):
        sweep.tofile(path)
    else:
        head = "VERSION 0.7\nFIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nPOINTS 500\nDATA binary\n"
        path.write_bytes(head.encode() + sweep.tobytes())
        assert read_pcd(str(path), 4).shape == (500, 4)
    (row,) = json.loads(command("run", detector, path, "--json").stdout)
    assert [each["label"] for each in row["detections"]] == ["Pedestrian", "Car", "Car"]
    np.testing.assert_allclose(row["detections"][0]["center"], sweep[200, :3])


def test_every_output(detector: Path, file: Path, tmp_path: Path) -> None:
    (tmp_path / "calib.txt").write_text(CALIBRATION)
    result = command(
        "run", detector, file, "-o", tmp_path / "out", "--format", "json,kitti,nuscenes", "--calib",
        tmp_path / "calib.txt", "--bev", tmp_path / "bev.png", "--viewer", tmp_path / "page.html", "--show",
        "windows", "--show", "groups", "--color", "intensity",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [
        "sweep.json", "sweep.nuscenes.json", "sweep.txt"
    ]  # fmt: skip
    record = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert record["package"]["name"] == "detector"
    assert record["counts"]["read"] == 500 and record["counts"]["points"] == 500
    assert record["counts"]["groups"] == -(-record["counts"]["pillars"] // 12)
    assert record["seconds"].keys() == {"read", "run"} and "m" in record["units"]["size"]
    assert len(record["detections"]) == 3
    assert (tmp_path / "out" / "sweep.txt").read_text().startswith("Pedestrian -1 -1 ")
    results = json.loads((tmp_path / "out" / "sweep.nuscenes.json").read_text())["results"]
    assert len(results["sweep"]) == 3
    assert (tmp_path / "bev.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '"windows, shifted"' in page and '"groups along y, shifted"' in page


def test_one_file_by_name(detector: Path, file: Path, tmp_path: Path) -> None:
    assert command("run", detector, file, "-o", tmp_path / "found.json").exit_code == 0
    assert len(json.loads((tmp_path / "found.json").read_text())["detections"]) == 3
    result = command("run", detector, file, "-o", tmp_path / "found.json", "--format", "nuscenes")
    assert result.exit_code == 2 and "--force" in result.output
    result = command("run", detector, file, "-o", tmp_path / "found.csv")
    assert result.exit_code == 2 and ".json file" in result.output


def test_score_threshold_is_said(detector: Path, file: Path) -> None:
    result = command("run", detector, file, "--score-threshold", "0.94")
    assert "2 detections" in result.output
    assert "1 detection below the score 0.94 left out" in text(result)


def test_an_empty_cloud(detector: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.bin").write_bytes(b"")
    result = command(
        "run", detector, tmp_path / "empty.bin", "--bev", tmp_path / "a.png", "--viewer", tmp_path / "a.html"
    )
    assert result.exit_code == 0, result.output
    assert "0 points read" in text(result) and "0 detections" in result.output


def test_dropped_points_are_said(detector: Path, sweep: np.ndarray, tmp_path: Path) -> None:
    sweep[0, 0], sweep[1, 3], sweep[2, 0], sweep[200, 2] = np.nan, np.inf, -5, 99
    np.save(tmp_path / "a.npy", sweep.astype(np.float64))
    result = command("run", detector, tmp_path / "a.npy")
    assert "2 not finite and 2 out of range dropped, 496 kept" in text(result)
    assert "2 detections" in result.output


def test_a_million_points(detector: Path, tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform((0, -25, -3, 0), (51, 25, 1, 0.9), (1_000_000, 4))
    points[123_456, 3] = 0.97
    points.astype(np.float32).tofile(tmp_path / "a.bin")
    result = command(
        "run", detector, tmp_path / "a.bin", "--viewer", tmp_path / "a.html", "--bev", tmp_path / "a.png"
    )
    assert result.exit_code == 0, result.output
    assert "1,000,000 points read" in text(result) and "1 detection" in result.output
    assert "200,000 of 1,000,000 points are drawn" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_a_bad_file_in_a_folder_stops_nothing(detector: Path, sweep: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.bin", "b.bin", "c.bin"):
        sweep.tofile(folder / name)
    (folder / "b.bin").write_bytes(sweep.tobytes()[:-5])
    result = command(
        "run", detector, folder, "-o", tmp_path / "out", "--bev", tmp_path / "pictures", "--json"
    )
    assert result.exit_code == 1
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["a.json", "c.json"]
    assert sorted(each.name for each in (tmp_path / "pictures").iterdir()) == ["a.png", "c.png"]
    rows = json.loads(result.stdout)
    assert [Path(row["input"]).name for row in rows if "error" in row] == ["b.bin"]
    assert "truncated" in result.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((3, 5), np.float32), "would fit 5 columns (nuScenes)"),
        (np.zeros(17, np.float32), "may be truncated"),
        (None, "is not a file"),
    ],
)
def test_a_single_bad_file_is_bad_use(
    content: np.ndarray | None, message: str, detector: Path, tmp_path: Path
) -> None:
    if content is not None:
        content.tofile(tmp_path / "a.bin")
    result = command("run", detector, tmp_path / "a.bin", "-o", tmp_path / "out.json")
    assert result.exit_code == 2
    assert message in text(result)
    assert not (tmp_path / "out.json").exists()


def test_integers_are_refused(detector: Path, sweep: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", sweep.astype(np.int32))
    result = command("run", detector, tmp_path / "a.npy")
    assert result.exit_code == 2 and "holds integers (int32)" in text(result)


def test_nothing_is_overwritten_without_force(detector: Path, file: Path, tmp_path: Path) -> None:
    (tmp_path / "out.html").write_text("precious")
    arguments = ("run", detector, file, "-o", tmp_path / "out.json", "--viewer", tmp_path / "out.html")
    result = command(*arguments)
    assert result.exit_code == 2 and "--force" in result.output
    assert (tmp_path / "out.html").read_text() == "precious" and not (tmp_path / "out.json").exists()
    assert command(*arguments, "--force").exit_code == 0
    assert (tmp_path / "out.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "kitti", "-o", "out"], "needs --calib"),
        (["--format", "json"], "say where with -o"),
        (["--format", "xml", "-o", "out"], "none of json, kitti, nuscenes"),
        (["--show", "groups"], "add --viewer"),
        (["--tile", "64"], "are for pictures"),
        (["--bev", "a.jpg"], ".png file"),
    ],
)
def test_options_that_do_not_fit(options: list[str], message: str, detector: Path, file: Path) -> None:
    result = command("run", detector, file, *options)
    assert result.exit_code == 2
    assert message in text(result)


def test_options_of_sweeps_on_other_packages(classifier: Path, photograph: Path) -> None:
    result = command("run", classifier, photograph, "--score-threshold", "0.5")
    assert result.exit_code == 2 and "through a detection package" in text(result)


def test_arrays_by_name_stay_arrays(detector: Path, sweep: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", sweep)
    np.savez(tmp_path / "a.npz", points=sweep)
    for source in (f"points={tmp_path / 'a.npy'}", tmp_path / "a.npz"):
        result = command("run", detector, source, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)[0]["answer"][0]["output"] == "boxes"


def test_a_sweep_larger_than_every_profile(detector: Path, file: Path, tmp_path: Path) -> None:
    """What is left out is said, with the range that would hold it."""
    from edgetx.package import Package
    from edgetx.profiles import Profile, Range

    profiles = [Profile({"points": Range(0, 200, 300), "pillars": Range(0, 10, 1000)}, 1.0)]
    package = Package.open(detector)
    copy = tmp_path / "profiled"
    copy.mkdir()
    for each in detector.iterdir():
        (copy / each.name).write_bytes(each.read_bytes())
    (copy / MANIFEST).write_bytes(msgspec.json.encode(package.manifest.with_profiles(profiles)))
    result = command("run", copy, file, "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert row["counts"]["read"] == 500 and row["counts"]["points"] == 300
    assert "left out 200 of 500 points" in row["notes"][0] and "would hold it" in row["notes"][0]
    assert row["profile"] == 1
    (row,) = json.loads(command("run", copy, file, "--json", "--all-points").stdout)
    assert row["counts"]["points"] == 500 and row["profile"] is None
    assert "points 500 exceeds 300 by 200 of the largest profile" in row["notes"][0]
    profiles = [Profile({"points": Range(0, 200, 1000), "pillars": Range(0, 10, 20)}, 1.0)]
    (copy / MANIFEST).write_bytes(msgspec.json.encode(package.manifest.with_profiles(profiles)))
    (row,) = json.loads(command("run", copy, file, "--json").stdout)
    assert 0 < row["counts"]["pillars"] <= 20 < row["counts"]["points"] < 500
    assert f"left out {500 - row['counts']['points']} of 500 points" in row["notes"][0]


def test_the_smallest_profile_that_holds_a_sweep_is_named(detector: Path, file: Path, tmp_path: Path) -> None:
    from edgetx.package import Package, amend
    from edgetx.profiles import Profile, Range

    copy = tmp_path / "profiled"
    shutil.copytree(detector, copy)
    tops = (300, 600, 2000)
    package = Package.open(copy)
    amend(
        package,
        package.manifest.with_profiles([Profile({"points": Range(0, 200, top)}, 1.0) for top in tops]),
    )
    result = command("run", copy, file)
    assert "the model saw 500 points" in text(result) and "which profile 2 holds" in text(result)
    (row,) = json.loads(command("run", copy, file, "--json").stdout)
    assert row["profile"] == 2 and row["notes"] == []
