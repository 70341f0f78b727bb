"""The demo `points`: its functions, and its page in Debian's Chromium."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgetx
from edgetx import demos
from edgetx.detection import detect
from edgetx.errors import InputError

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
if (reason := demos.why_not()) is not None:
    pytest.skip(reason, allow_module_level=True)

from edgetx.demos import models, points, site
from edgetx.demos.models import Store

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def cloud() -> np.ndarray:
    """500 points in range with three bright ones."""
    random = np.random.default_rng(0)
    drawn = random.uniform((1, -25, -2, 0), (51, 25, 0.9, 0.8), (500, 4)).astype(np.float32)
    drawn[[10, 200, 300], 3] = 0.95, 0.99, 0.92
    return drawn


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    cloud().tofile(tmp_path / "sweep.bin")
    return tmp_path / "sweep.bin"


def run(store: Store, sweep: Path | None, model: str = "split", warm_up: bool = False) -> Any:
    return points.run(store, None if sweep is None else str(sweep), model, warm_up, lambda *_, **__: None)


def drawn(frame: str) -> dict[str, Any]:
    """What the 3D page inside a frame holds."""
    (inside,) = re.findall(r'srcdoc="([^"]*)"', frame)
    (data,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', html.unescape(inside))
    found: dict[str, Any] = json.loads(data)
    return found


def milliseconds(table: str) -> dict[str, float]:
    return {name: float(each) for name, each in re.findall(r"<div>([^<]+)</div><div>([0-9.]+) ms", table)}


@pytest.mark.parametrize("warm_up", [False, True])
def test_is_the_public_api(store: Store, detectors: dict[str, Path], sweep: Path, warm_up: bool) -> None:
    frame, table, report = run(store, sweep, warm_up=warm_up)
    data = drawn(frame)
    with edgetx.load(detectors["whole"]) as session:
        assert data["detections"] == detect(session, sweep).detections
    assert len(data["detections"]) == 3 and data["count"] == 500 and data["color"] == "windows"
    assert {"windows", "windows, shifted", "groups along x", "groups along y, shifted"} < {
        *data["partitions"]
    }
    times = milliseconds(table)
    assert [*times] == ["select", "decode", "the model"] and min(times.values()) >= 0
    assert times["select"] + times["decode"] <= times["the model"] + 0.2  # tenths are shown
    assert "3 Car" in report and "random: boxes mean nothing" in report
    assert ("after one to warm up" if warm_up else "also allocates memory") in report


def test_whole_package_says_how_to_time_stages(store: Store, sweep: Path) -> None:
    frame, table, report = run(store, sweep, "whole")
    assert [*milliseconds(table)] == ["the model"] and "export --split" in report
    assert len(drawn(frame)["detections"]) == 3


def text(path: Path) -> None:
    path.write_text("16 bytes of text" * 100)


def truncated(path: Path) -> None:
    path.write_bytes(cloud().tobytes()[:-5])


def integers(path: Path) -> None:
    (cloud() * 10).astype("<i4").tofile(path)


@pytest.mark.parametrize(
    ("write", "message"),
    [(text, "holds text"), (truncated, "may be truncated"), (integers, "holds integers")],
)
def test_files_that_are_no_sweeps(
    store: Store, tmp_path: Path, write: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / "sweep.bin")
    with pytest.raises(InputError, match=message):
        run(store, tmp_path / "sweep.bin")


def test_no_sweep_and_a_large_one(store: Store, sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="upload one"):
        run(store, None)
    monkeypatch.setattr(site, "MOST_SWEEP", sweep.stat().st_size - 1)
    with pytest.raises(InputError, match="takes sweeps up to"):
        run(store, sweep)


def test_nan_and_nothing(store: Store, sweep: Path) -> None:
    holed = cloud()
    holed[[3, 4], 1] = np.nan, np.inf
    holed.tofile(sweep)
    frame, _, report = run(store, sweep)
    assert "**2 with NaN or infinity**" in report and "498 kept" in report and drawn(frame)["count"] == 498
    for empty in (holed[:0], np.full((9, 4), 1000, np.float32)):
        empty.tofile(sweep)
        frame, _, report = run(store, sweep)
        assert "no point is left" in report and "| boxes | none |" in report
        assert drawn(frame)["detections"] == [] and drawn(frame)["count"] == 0


def test_a_name_stays_text(store: Store, sweep: Path) -> None:
    named = sweep.with_name('a"><img src=x onerror=alert(1)>.bin')
    sweep.rename(named)
    frame, _, _ = run(store, named)
    assert drawn(frame)["title"] == named.name
    assert re.fullmatch(r"<iframe [^<>]*></iframe>", frame) and "allow-same-origin" not in frame


def test_packages_of_ones_own(detectors: dict[str, Path], classifier: Path) -> None:
    given = models.own("points", [detectors["split"], detectors["split"]])
    assert [*given] == ["detectors"] and [*given["detectors"]] == ["split", "split (2)"]
    assert not given["detectors"]["split"].pretrained
    assert [*models.own("classify", [classifier])["classifiers"]] == ["classifier"]
    with pytest.raises(InputError, match="without the processor point-cloud-detection"):
        models.own("points", [classifier])
    with pytest.raises(InputError, match="takes no packages; these do: classify, points"):
        models.own("upscale", [classifier])


def test_detectors_that_are_offered_have_stages() -> None:
    from edgetx import sources
    from edgetx.exporters.flatformer import FlatFormer

    architecture = FlatFormer()
    assert all(model.source in architecture.presets.values() for model in models.DETECTORS.values())
    tiny = models.DETECTORS["FlatFormer-tiny"]
    module = sources.load(tiny.source, pretrained=False).module
    assert tiny.split and architecture.stages(architecture.rewrite(module).module)


def test_examples(store: Store, detectors: dict[str, Path], tmp_path: Path) -> None:
    synthetic = points.sweeps(store)
    assert all("synthetic" in Path(path).name for path in synthetic)
    assert "no point is left" not in run(store, Path(synthetic[0]))[2]
    with Store(examples=tmp_path) as own:
        with pytest.raises(InputError, match=r"holds no examples; accepted: \.bin"):
            points.sweeps(own)
        for number in range(site.MOST_EXAMPLES + 1):
            (tmp_path / f"{number:02}.BIN").write_bytes(b"")
        (tmp_path / "notes.txt").touch()
        offered = [Path(path) for path in points.sweeps(own)]
        assert [path.name for path in offered] == [f"{n:02}.BIN" for n in range(site.MOST_EXAMPLES)]
        assert all(path.parent == own.folder / "examples" for path in offered)
    with pytest.raises(InputError, match="workbench has no examples"):
        demos.serve("workbench", examples=tmp_path)
    with Store(examples=tmp_path / "none") as own, pytest.raises(InputError, match="is no folder"):
        points.sweeps(own)


def boxes(tab: Any) -> Any:
    """The list of boxes inside the frame."""
    return tab.page.frame_locator("iframe").locator("#list li")


@pytest.mark.parametrize(
    ("look", "options"), [("light", {}), ("dark", {"color_scheme": "dark"}), ("phone", PHONE)]
)
def test_page(tab: Any, sweep: Path, look: str, options: dict[str, Any]) -> None:
    opened = tab("points", **options)
    opened.sees("The weights of split, whole are random")
    opened.upload(sweep)
    opened.sees("sweep.*bin")
    opened.press("Detect")
    opened.sees("500 in the file")
    for stage in ("select", "decode", "the model"):
        opened.sees(f"^{stage}$")
    frame = opened.page.frame_locator("iframe")
    opened.page.locator("iframe").scroll_into_view_if_needed()  # what is out of sight is not drawn
    frame.locator("#title").get_by_text("sweep.bin").wait_for()
    assert boxes(opened).count() == 3
    theme = "dark" if look == "dark" else "light"
    frame.locator(f"html[data-theme={theme}]").wait_for(state="attached")
    assert {"windows", "groups along y, shifted"} < {*frame.locator("#color option").all_text_contents()}
    opened.page.wait_for_timeout(500)
    opened.keep(f"points-{look}")
    assert opened.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert opened.problems == [] and opened.elsewhere == []


def test_page_runs_its_example(tab: Any) -> None:
    opened = tab("points")
    opened.sees("Boxes in a point cloud")
    opened.page.get_by_text("synthetic_4_columns", exact=True).click()
    opened.sees(r"synthetic_4_columns.*\.bin")
    opened.press("Detect")
    opened.sees("in the file, dropped")
    assert opened.problems == []


def test_bad_sweeps_through_the_page(tab: Any, sweep: Path) -> None:
    for name, write, message in (
        ("words_only", text, "words_only.bin holds text"),
        ("cut_short", truncated, "cut_short.bin has 7995 bytes"),
        ("whole_numbers", integers, "whole_numbers.bin holds integers"),
        ("no_bytes", Path.touch, "no point is left"),
    ):
        write(sweep.with_name(f"{name}.bin"))
        opened = tab("points")
        opened.upload(sweep.with_name(f"{name}.bin"))
        opened.sees(name)
        opened.press("Detect")
        opened.sees(re.escape(message))


def test_two_runs_at_once_and_a_closed_tab(tab: Any, sweep: Path) -> None:
    first, second = tab("points"), tab("points")
    for each in (first, second):
        each.upload(sweep)
        each.sees("sweep.*bin")
    for each in (first, second):
        each.press("Detect")
    first.context.close()
    second.sees("500 in the file")
    assert second.problems == []
