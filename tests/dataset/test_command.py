"""`edgetx verify` on packages that restore pictures, and its `--dataset`."""

import json
import logging

import pytest
from typer.testing import CliRunner

from edgetx.cli import app


@pytest.fixture(autouse=True)
def logging_restored():
    """The command configures logging for a process of its own; leave none of that to other tests."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.captureWarnings(False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    for name in ("edgetx", "py.warnings"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def invoke(*arguments):
    return CliRunner().invoke(app, ["verify", *map(str, arguments), "--threads", "1"])


def test_pictures_get_psnr_and_ssim(upscaler):
    result = invoke(upscaler())
    assert result.exit_code == 0, result.stderr
    assert "PSNR" in result.stdout and "SSIM" in result.stdout
    (output,) = json.loads(invoke(upscaler("wrong", gain=0.9), "--json").stdout)["verdict"]["outputs"]
    assert not output["passed"]
    assert output["tolerance"] == pytest.approx(1e-4)
    assert 20 < output["psnr"] < 40 and 0.9 < output["ssim"] < 1


def test_outputs_too_small_for_ssim(upscaler):
    (output,) = json.loads(invoke(upscaler(size=4), "--json").stdout)["verdict"]["outputs"]
    assert output["passed"] and output["ssim"] is None


def test_side_by_side(upscaler, pairs):
    pytest.importorskip("torch")
    package = upscaler()
    result = invoke(package, "--dataset", pairs)
    assert result.exit_code == 0, result.stderr
    assert "mean" in result.stdout and "+0.0000 dB" in result.stdout and "as good as PyTorch" in result.stdout
    report = json.loads(invoke(package, "--dataset", pairs, "--limit", "1", "--json").stdout)
    assert report["passed"] and report["dataset"]["task"] == "restoration"
    assert [picture["name"] for picture in report["dataset"]["pictures"]] == ["a"]
    assert report["dataset"]["pictures"][0]["pytorch"] == report["dataset"]["pictures"][0]["package"]


def test_worse_than_pytorch_exits_with_1(upscaler, pairs):
    pytest.importorskip("torch")
    package = upscaler(gain=0.9, golden=1e-4)  # the golden picture is too dark to show it
    assert invoke(package).exit_code == 0
    worse = invoke(package, "--dataset", pairs)
    assert worse.exit_code == 1
    assert "FAILED: worse than PyTorch by more than 0.01 dB: a, b, c" in worse.stdout
    accepted = invoke(package, "--dataset", pairs, "--max-drop", "50")
    assert accepted.exit_code == 0, accepted.stdout


def test_a_corrupt_file_exits_with_1(upscaler, pairs):
    (pairs / "HR" / "b.png").write_bytes(b"no picture")
    result = invoke(upscaler(source="in-memory:Net"), "--dataset", pairs)
    assert result.exit_code == 1
    assert "FAILED: b: " in result.stdout and "not compared with PyTorch" in result.stdout
    assert "as good as" not in result.stdout


def test_classes(colours, classes):
    pytest.importorskip("torch")
    result = invoke(colours(), "--dataset", classes)
    assert result.exit_code == 0, result.stderr
    assert "top-1" in result.stdout and "83.33 %" in result.stdout and "+0.00 points" in result.stdout
    worse = invoke(colours("worse", signs=(1.0, -1.0, 1.0)), "--dataset", classes, "--max-drop", "1")
    assert worse.exit_code == 1
    assert "more than 1 percentage points: Verdant/0.png, Verdant/1.png" in worse.stdout


def test_bad_use(upscaler, tmp_path):
    package = upscaler()
    assert invoke(package, "--limit", "2").exit_code == 2
    missing = invoke(package, "--dataset", tmp_path / "none")
    assert missing.exit_code == 2 and "does not exist" in missing.stderr
