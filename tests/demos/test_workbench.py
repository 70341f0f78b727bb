"""The workbench: what its button asks for, what the page shows of it, and that nothing of it stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edgetx
from edgetx import _torchvision, demos

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
_torchvision.install()
if (reason := demos.why_not()) is not None:
    pytest.skip(reason, allow_module_level=True)

from edgetx.demos import scratch, workbench  # noqa: E402
from edgetx.demos.line import STEPS, Line, Said  # noqa: E402
from edgetx.errors import InputError  # noqa: E402
from tests.processes import descendants, running  # noqa: E402

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")


def lines() -> list[int]:
    """Processes of running lines that this one started."""
    return [pid for pid, words in descendants(os.getpid()).items() if "edgetx.demos.line" in words]


def until(true: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)
    return value


def test_what_is_asked_for(store: Any) -> None:
    def ask(checkpoint: str | None, model: str) -> Line:
        return workbench.line(store, checkpoint, model, ["tensorrt_rtx"], False, 2)

    swin = store.architectures["tiny Swin"].source
    assert ask(None, "tiny Swin") == Line(
        source=swin, pretrained=False, engines=("tensorrt_rtx",), stock=False, seconds=2
    )
    assert ask(None, "tiny x2, trained").pretrained is None
    assert ask("/tmp/x/model.pth", workbench.RECOGNISE).source == "model.pth"
    assert ask("/tmp/x/model.pth", "tiny Swin").model == swin
    with pytest.raises(InputError, match="drop one, or choose an architecture"):
        ask(None, workbench.RECOGNISE)
    with pytest.raises(InputError, match="has weights of its own"):
        ask("/tmp/x/model.pth", "tiny x2, trained")


def test_steps_are_told_apart() -> None:
    steps = workbench.Steps()
    steps.hear(Said(step="export", text="tracing"))
    assert 'class="runs" aria-current="step"' in steps.html() and "tracing" in steps.html()
    steps.hear(Said(step="verify", text="replaying"))
    steps.hear(Said(step="build", text="no <engine>", state="left out"))
    steps.hear(Said(step="bench", text="measuring"))
    steps.end("the engine died")
    shown = [part.partition('"')[0] for part in steps.html().split('<li class="')[1:]]
    assert shown == ["done", "done", "left", "failed", "waits"]
    assert "no &lt;engine&gt;" in steps.html() and "the engine died" in steps.html()


def measure(opened: Any, *, stock: bool) -> None:
    """Ask for the shortest measurement."""
    opened.page.get_by_text("Measuring").click()
    opened.page.get_by_label("Compare with PyTorch's own export").set_checked(stock)
    opened.page.get_by_label("number input for Seconds per engine").fill("1")


def downloaded(opened: Any, folder: Path) -> Path:
    """The archive's files in a folder, and the package among them."""
    with opened.page.expect_download() as download:
        opened.page.get_by_role("button", name="Download the package").or_(
            opened.page.get_by_role("link", name="Download the package")
        ).first.click()
    download.value.save_as(folder / "package.zip")
    with zipfile.ZipFile(folder / "package.zip") as archive:
        archive.extractall(folder)
    (package,) = folder.glob("*.edgetx")
    return package


@linux
@pytest.mark.slow
def test_a_whole_line(tab: Any, store: Any, tmp_path: Path) -> None:
    opened = tab("workbench")
    opened.page.set_default_timeout(300_000)
    # Each by its name, which waits for it: the page shows its title before its boxes.
    for engine in workbench.builders():
        opened.page.get_by_role("checkbox", name=engine, exact=True).uncheck()
    measure(opened, stock=True)
    opened.press("Run the line")
    opened.sees("tracing and translating")
    opened.keep("workbench-running-light")
    opened.sees("parity")
    opened.sees("no engine was asked for")
    opened.sees("stock export")
    opened.page.get_by_text("The whole report").click()
    opened.page.frame_locator("iframe").get_by_text("Cold start, memory and energy").wait_for()
    opened.page.frame_locator("iframe").locator("#medians svg").first.wait_for()
    opened.page.get_by_text("The whole report").click()
    opened.keep("workbench-light")
    folder = downloaded(opened, tmp_path)
    assert edgetx.verify(folder).passed
    assert edgetx.Package.open(folder).manifest.weights == "random"
    report = json.loads((tmp_path / "report.json").read_text())
    assert [each["name"] for each in report["engines"]] == [folder.name, "stock export"]
    assert (tmp_path / "report.html").stat().st_size > 10_000
    opened.page.emulate_media(color_scheme="dark")
    opened.keep("workbench-dark")
    opened.page.set_viewport_size({"width": 390, "height": 844})
    opened.keep("workbench-phone")
    assert opened.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert opened.problems == [] and opened.elsewhere == []
    assert lines() == [] and list((store.folder / "runs").iterdir()) == []


@linux
@pytest.mark.slow
@pytest.mark.skipif(
    "tensorrt_rtx" not in workbench.builders(),
    reason="TensorRT-RTX is not installed; pip install 'edgetx[tensorrt-rtx]'",
)
def test_own_checkpoint_and_an_engine_for_it(tab: Any, tmp_path: Path) -> None:
    """A state dict of tensors, recognised by them, becomes a package that holds an engine."""
    import torch
    from playwright.sync_api import expect

    from edgetx import building, sources
    from edgetx.engines import Request

    from .conftest import TINY

    module = sources.load(TINY.replace("[2]", "[1]", 1), pretrained=False).module
    state = {name: each.clone() for name, each in module.model.state_dict().items()}
    torch.save({"params": state}, tmp_path / "mine.pth")
    opened = tab("workbench")
    opened.page.set_default_timeout(300_000)
    opened.page.get_by_role("checkbox", name="tensorrt_rtx", exact=True).check()
    measure(opened, stock=False)
    opened.upload(tmp_path / "mine.pth")
    expect(opened.page.get_by_label("Architecture", exact=True)).to_have_value(workbench.RECOGNISE)
    opened.press("Run the line")
    opened.sees("Against PyTorch")
    assert opened.page.locator("li.done").count() == len(STEPS), opened.page.locator("ol").inner_text()
    opened.sees(r"tensorrt_rtx, [\d.]+ .?B")
    opened.keep("workbench-engine")
    assert opened.problems == []
    package = edgetx.Package.open(downloaded(opened, tmp_path))
    assert package.manifest.architecture == "swinir" and package.manifest.weights == "checkpoint"
    _, built_again = building.ensure(
        package, runtime="tensorrt_rtx", stage=None, request=Request(), progress=print
    )
    assert not built_again
    assert edgetx.verify(package, runtime="ort").passed


def test_checkpoints_that_are_none(tab: Any, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(ran),)

    (tmp_path / "corrupt.pth").write_bytes(b"PK\x03\x04" + bytes(1000))
    (tmp_path / "payload.pth").write_bytes(pickle.dumps({"params": Payload()}))
    opened = tab("workbench")
    opened.sees("From a checkpoint to a package")
    for name, text in (("corrupt.pth", "is truncated or damaged"), ("payload.pth", "contains pickled code")):
        if name == "payload.pth":
            opened.page.get_by_label("Clear", exact=True).or_(
                opened.page.get_by_label("Remove")
            ).first.click()
        opened.upload(tmp_path / name)
        opened.sees(name.partition(".")[0])
        opened.press("Run the line")
        opened.sees(f"checkpoint {name} {text}")
    opened.keep("workbench-refused")
    assert not ran.exists()
    assert opened.page.get_by_role("button", name="Download the package").is_disabled()
    assert opened.problems == []


@linux
def test_two_runs_a_closed_tab_and_stop(tab: Any, store: Any) -> None:
    first, second = tab("workbench"), tab("workbench")
    for each in (first, second):
        each.sees("From a checkpoint to a package")
        each.press("Run the line")
    first.sees("loading the model")
    (line,) = lines()
    second.sees(r"queue: 1/1")
    assert lines() == [line]
    first.context.close()
    until(lambda: line not in lines(), "the line of the closed tab ends")
    second.sees("loading the model")
    (line,) = lines()
    second.press("Stop")
    second.sees("Nothing of this run is kept")
    until(lambda: line not in lines(), "the stopped line ends")
    until(lambda: not list((store.folder / "runs").iterdir()), "its files are removed")
    assert second.problems == []


@linux
def test_cancelled_upload(served: dict[str, str]) -> None:
    """What came of it is removed; the pages are served by this process, which holds the file open."""
    host, _, port = served["workbench"].rstrip("/").rpartition("/")[2].partition(":")

    def partial() -> list[Path]:
        found = []
        for handle in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                path = Path(os.readlink(handle))
                if path.is_file() and path.read_bytes()[:9] == b"cut short":
                    found.append(path)
        return found

    head = b'--edge\r\nContent-Disposition: form-data; name="files"; filename="cut.pth"\r\n\r\n'
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n"
            b"Content-Type: multipart/form-data; boundary=edge\r\n\r\n" + head + b"cut short" + bytes(2**20)
        )
        (file,) = until(partial, "it arrives")
    until(lambda: not file.exists(), "it is removed")
    with urllib.request.urlopen(served["workbench"], timeout=60) as answer:
        assert answer.status == 200


SERVER = """
import sys
from edgetx import demos
from edgetx.demos import models
models.architectures = lambda: {"tiny": models.Model(sys.argv[2], pretrained=False)}
demos.serve("workbench", port=int(sys.argv[1]))
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    from .conftest import TINY_CLASSIFIER

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port), TINY_CLASSIFIER],
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.DEVNULL,
        text=True,
    )
    yield process, f"http://127.0.0.1:{port}/"
    process.kill()
    process.wait()


@linux
@pytest.mark.slow
@pytest.mark.parametrize(("ending", "when"), [("SIGTERM", "demos.line"), ("SIGKILL", "benchmark.worker")])
def test_no_process_is_left(server: Any, tmp_path: Path, ending: str, when: str) -> None:
    """However the server ends, and whatever a run is doing then."""
    process, url = server

    def begin() -> bool:
        body = json.dumps({"data": [None, "tiny", [], False, 20]}).encode()
        headers = {"Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"{url}gradio_api/call/walk", body, headers), timeout=60
            ) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    until(begin, "the server is there")
    until(lambda: any(when in words for words in descendants(process.pid).values()), when, 120)
    started = descendants(process.pid)
    (folder,) = tmp_path.glob(f"{scratch.PREFIX}*")
    os.utime(folder, (0, 0))
    assert scratch.remove_abandoned(tmp_path) == []  # its server lives
    process.send_signal(getattr(signal, ending))
    assert process.wait(20) in (0, -signal.SIGKILL)
    until(lambda: not any(map(running, started)), "every child ends")
    if ending == "SIGTERM":
        assert not list(tmp_path.glob("edgetx-*"))
    else:
        os.utime(folder)
        assert scratch.remove_abandoned(tmp_path) == []  # it may be of a server that has just begun
        os.utime(folder, (0, 0))
        assert scratch.remove_abandoned(tmp_path) == [folder] and not folder.exists()
