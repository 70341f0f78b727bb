"""The 3D page in a real browser: what it lists, what it draws, and that it complains about nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgetx.points import viewer
from edgetx.points.picture import PALETTE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; apt-get install chromium")
CAR = {"label": "Car", "score": 0.75, "center": [20.0, 2.0, -1.0], "size": [4.0, 2.0, 1.5], "yaw": 0.3}
DETECTIONS = [CAR, {**CAR, "label": "Cyclist", "score": 0.5, "center": [9.0, -3.0, -1.0]}]


def browse(page: Path, *options: str) -> tuple[str, str]:
    """What Chromium writes, and the messages of the page's console."""
    software = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless=new", "--no-sandbox", "--enable-logging=stderr", profile,
            "--window-size=1000,700", "--virtual-time-budget=3000", *software, *options, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.slow
def test_the_page_in_chromium(sweep: np.ndarray, tmp_path: Path) -> None:
    partitions = (np.arange(len(sweep)) % 9, {"windows": np.arange(9), "groups along x": np.arange(9) // 3})
    page = tmp_path / "page.html"
    text = viewer(
        sweep, DETECTIONS, classes=["Car", "Cyclist"], title="a<b>.bin", facts=["500 points"],
        color="windows", partitions=partitions,
    )  # fmt: skip
    page.write_text(text, encoding="utf-8")
    dom, complaints = browse(page, "--dump-dom")
    assert complaints == ""
    assert "<title>a&lt;b&gt;.bin</title>" in dom and "500 points" in dom
    for wanted in ("Car", "0.75", "Cyclist", "0.50", "groups along x"):
        assert f">{wanted}<" in dom, wanted
    if "<p>This browser has no WebGL" in dom:
        pytest.skip("this Chromium has no WebGL, so nothing is drawn")
    picture = tmp_path / "page.png"
    browse(page, f"--screenshot={picture}")
    pixels = np.asarray(Image.open(picture).convert("RGB"), int)[:, 330:]  # right of the panel
    for color in PALETTE[:2]:  # the boxes' lines
        assert (np.abs(pixels - color).sum(2) < 40).sum() > 50
    colorful = pixels.max(2) - pixels.min(2) > 150
    assert len(np.unique(pixels[colorful] // 64, axis=0)) >= 6  # the points of nine windows
