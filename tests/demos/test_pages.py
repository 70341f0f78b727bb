"""The pages in Debian's Chromium. `EDGETX_SCREENSHOTS=DIR` keeps pictures of them."""

from __future__ import annotations

import json
import pickle
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edgetx import _torchvision, demos

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
_torchvision.install()
pytest.importorskip("spandrel")
if (reason := demos.why_not()) is not None:
    pytest.skip(reason, allow_module_level=True)

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def no_overflow(tab: Any) -> bool:
    """Whether nothing is wider than the window."""
    return bool(tab.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


@pytest.mark.parametrize(
    ("look", "options"), [("light", {}), ("dark", {"color_scheme": "dark"}), ("phone", PHONE)]
)
def test_upscale(tab: Any, small: Path, look: str, options: dict[str, Any]) -> None:
    opened = tab("upscale", **options)
    opened.sees("Upscale a picture")
    opened.upload(small)
    opened.page.locator("img").first.wait_for()
    opened.press("Upscale")
    opened.sees("48x32 to 96x64")
    opened.sees("random weights")
    opened.keep(f"upscale-{look}")
    assert no_overflow(opened)
    assert opened.problems == [] and opened.elsewhere == []


@pytest.mark.parametrize(
    ("look", "options"), [("light", {}), ("dark", {"color_scheme": "dark"}), ("phone", PHONE)]
)
def test_classify(tab: Any, small: Path, look: str, options: dict[str, Any]) -> None:
    opened = tab("classify", **options)
    opened.sees("are random")
    opened.upload(small)
    opened.page.locator("img").first.wait_for()
    opened.press("Classify")
    opened.sees("28x28 pixels, moved by 0x0")
    opened.keep(f"classify-{look}")
    assert no_overflow(opened)
    assert opened.problems == [] and opened.elsewhere == []


def test_text_named_png(tab: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not a picture")
    opened = tab("upscale")
    opened.sees("Upscale a picture")
    opened.upload(tmp_path / "notes.png")
    opened.page.locator("img").first.wait_for(state="attached")
    opened.press("Upscale")
    opened.sees("is not an image that Pillow can read")


def test_picture_of_30000_by_30000(tab: Any, huge: Path) -> None:
    opened = tab("upscale")
    opened.sees("Upscale a picture")
    opened.upload(huge)
    opened.page.locator("img").first.wait_for(state="attached")
    opened.press("Upscale")
    opened.sees("the picture is too large")


@pytest.mark.parametrize("content", [b"PK\x03\x04" + bytes(1000), pickle.dumps({"params": print})])
def test_checkpoint_that_is_none(tab: Any, small: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    opened = tab("upscale")
    opened.sees("Upscale a picture")
    opened.upload(small)
    opened.page.locator("img").first.wait_for()
    opened.page.get_by_label("Model", exact=True).click()
    opened.page.get_by_role("option", name="your own checkpoint").click()
    opened.sees("read as tensors only")
    opened.page.locator("input[type=file]").last.set_input_files(str(tmp_path / "model.pth"))
    opened.sees(r"model.*\.pth")
    opened.press("Upscale")
    opened.sees("checkpoint model.pth")


def test_two_runs_at_once_a_closed_tab_and_a_cancelled_upload(tab: Any, small: Path, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bytes(2**26))
    first, second, gone = (tab("upscale") for _ in range(3))
    for each in (first, second, gone):
        each.sees("Upscale a picture")
    gone.upload(tmp_path / "large.png")
    gone.context.close()  # in the middle of it
    for each in (first, second):
        each.upload(small)
        each.page.locator("img").first.wait_for()
    for each in (first, second):
        each.press("Upscale")
    first.context.close()
    second.sees("48x32 to 96x64")
    assert second.problems == []


def _ask(url: str, path: str) -> str:
    """One request over Gradio's own interface: put in line, then its last event."""
    picture = {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = json.dumps({"data": [picture, "tiny Swin", "none"]}).encode()
    request = urllib.request.Request(
        f"{url}gradio_api/call/classify", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{url}gradio_api/call/classify/{event}", timeout=120) as answer:
        return str(answer.read().decode())


def _uploaded(url: str, file: Path) -> str:
    edge = "edgetxedgetx"
    body = (
        f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{file.name}"\r\n\r\n'.encode()
        + file.read_bytes()
        + f"\r\n--{edge}--\r\n".encode()
    )
    request = urllib.request.Request(
        f"{url}gradio_api/upload", body, {"Content-Type": f"multipart/form-data; boundary={edge}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)[0])


def test_forty_requests_at_once_are_all_answered(served: dict[str, str], small: Path) -> None:
    url = served["classify"]
    path = _uploaded(url, small)
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: _ask(url, path), range(40)))
    assert len(answers) == 40
    assert all("event: complete" in answer for answer in answers), [
        answer for answer in answers if "event: complete" not in answer
    ][:1]


def test_only_uploads_are_read(served: dict[str, str], store: Any) -> None:
    """A request that names another file of the server is refused."""
    for path in ("/etc/passwd", str(store.packages), "../../../../etc/passwd"):
        assert "event: error" in _ask(served["classify"], path)
        with pytest.raises(urllib.error.HTTPError, match=r"40[034]"):
            urllib.request.urlopen(f"{served['classify']}gradio_api/file={path}", timeout=60)
