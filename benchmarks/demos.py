"""The demos in Chromium: first paint, a full run of each page's example, and 200 requests at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.record import Goal, Progress, Record
from edgetx import demos
from edgetx.errors import UnavailableError

TITLE = "The demos' pages and their queue"
REQUESTS = 200
FIRST = 20
"""Requests before memory is read for the first time: they bring what the server keeps."""


class Example(NamedTuple):
    """What a visitor does: picks an example or fills a field, presses the button, and waits for `seen`."""

    button: str
    seen: str
    pick: str | None = None
    field: tuple[str, str] | None = None
    again: bool = True


EXAMPLES = {
    "upscale": Example("Upscale", "this run took", pick="button.gallery-item"),
    "classify": Example("Classify", "reading and resizing", pick="button.gallery-item"),
    "points": Example("Detect", "reading the file", pick="button.gallery-item"),
    "workbench": Example("Run the line", "Against PyTorch", field=("Architecture", "swin_tiny"), again=False),
}


class Visit(NamedTuple):
    """Milliseconds to first paint, seconds of the runs, and what the console said."""

    paint: float
    runs: list[float]
    errors: list[str]


def run(folder: Path, *, threads: int, runs: int, rounds: int, progress: Progress) -> Record:
    """Visit every page; first paint is the median of `rounds` visits, at most 5."""
    from playwright.sync_api import sync_playwright

    if (chromium := shutil.which("chromium")) is None:
        raise UnavailableError("the pages are measured in Debian's chromium; apt install chromium")
    goals: list[Goal] = []
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name in demos.NAMES:
            progress(f"the page of {name}")
            with _served(name, folder) as (url, _):
                visit = _visit(browser, url, EXAMPLES[name], min(rounds, 5))
            goals.append(Goal(what=f"{name}: first paint", measured=visit.paint, unit="ms"))
            for which, seconds in zip(("first", "second"), visit.runs, strict=False):
                goals.append(Goal(what=f"{name}: its example, {which} run", measured=seconds, unit="s"))
            errors += [f"{name}: {text}" for text in visit.errors]
        browser.close()
    goals.append(Goal(what="console errors on all pages", measured=len(errors), at_most=0))
    progress(f"{REQUESTS} requests at once")
    with _served("classify", folder) as (url, pid):
        goals += _crowd(url, pid, folder)
    notes = [
        "First paint is Chromium's first contentful paint on a page that it has not seen. A first run also "
        "exports and verifies the model; the workbench exports, verifies, builds and measures in every run.",
        f"Memory is the server's resident set, before the {REQUESTS} requests after {FIRST} others.",
        *errors,
    ]
    return Record(title=TITLE, reports={}, goals=goals, notes=notes)


@contextmanager
def _served(name: str, folder: Path) -> Iterator[tuple[str, int]]:
    """Address and process of a demo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgetx", "demo", name, "--port", str(port)],
            env={**os.environ, "TMPDIR": str(folder)},
            stdout=log,
            stderr=log,
        )
        try:
            end = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(url, timeout=5).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > end:
                        text = (folder / f"{name}.log").read_text(errors="replace")
                        raise UnavailableError(f"the demo {name} does not start: {text[-500:]}") from None
                    time.sleep(0.1)
            yield url, process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _visit(browser: Any, url: str, example: Example, visits: int) -> Visit:
    paints, seconds, errors = [], [], []
    for visit in range(visits):
        context = browser.new_context()
        tab = context.new_page()
        tab.set_default_timeout(300_000)
        tab.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(url)
        tab.get_by_role("button", name=example.button, exact=True).wait_for()
        paints.append(tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        if visit == visits - 1:
            seconds.append(_example(tab, example))
            if example.again:
                tab.goto(url)
                seconds.append(_example(tab, example))
        context.close()
    return Visit(statistics.median(paints), seconds, errors)


def _example(tab: Any, example: Example) -> float:
    """Seconds from the button to the answer."""
    if example.pick is not None:
        tab.locator(example.pick).first.click()
        tab.wait_for_load_state("networkidle")
    if example.field is not None:
        label, option = example.field
        tab.get_by_label(label, exact=True).fill(option)
        tab.get_by_role("option", name=option, exact=True).click()
    start = time.perf_counter()
    tab.get_by_role("button", name=example.button, exact=True).click()
    tab.get_by_text(re.compile(example.seen)).first.wait_for()
    return time.perf_counter() - start


def _crowd(url: str, pid: int, folder: Path) -> list[Goal]:
    """200 visitors, each with a session of its own, who all press the button at once."""
    from PIL import Image

    picture = folder / "grey.png"
    Image.new("RGB", (320, 240), (128, 128, 128)).save(picture)
    data = [{"path": _upload(url, picture), "meta": {"_type": "gradio.FileData"}}, "Swin-T", "none"]
    function = _function(url, "classify")
    for index in range(FIRST):
        _ask(url, function, data, f"first{index}")
    memory = _Memory(pid)
    before = memory.now()
    with memory, ThreadPoolExecutor(REQUESTS) as pool:
        start = time.perf_counter()
        told = list(pool.map(lambda index: _ask(url, function, data, f"visitor{index}"), range(REQUESTS)))
        took = time.perf_counter() - start
    time.sleep(1)
    after = memory.now()
    answered = sum(each.answered for each in told)
    placed = sum(each.place is not None for each in told)
    return [
        Goal(what=f"of {REQUESTS} requests at once, told their place", measured=placed, at_least=REQUESTS),
        Goal(what=f"of {REQUESTS} requests at once, answered", measured=answered, at_least=REQUESTS),
        Goal(what="the last place that was told", measured=max(each.place or 0 for each in told)),
        Goal(what="all answers", measured=took, unit="s"),
        Goal(what="server memory before", measured=before / 2**20, unit="MB"),
        Goal(what="server memory, peak", measured=memory.peak / 2**20, unit="MB"),
        Goal(what="server memory after / before", measured=after / before, at_most=1.05),
    ]


class Told(NamedTuple):
    """The place in line that a request was told first, from 1, and whether it was answered."""

    place: int | None
    answered: bool


def _ask(url: str, function: int, data: list[Any], session: str) -> Told:
    """Gradio's own protocol, as its pages speak it: join the queue, then listen."""
    body = {"data": data, "fn_index": function, "session_hash": session}
    _post(f"{url}gradio_api/queue/join", json.dumps(body).encode(), "application/json")
    place = None
    with urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash={session}", timeout=600) as lines:
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            message = json.loads(line[5:])
            if message["msg"] == "estimation" and place is None:
                place = message["rank"] + 1
            if message["msg"] == "process_completed":
                return Told(place, bool(message["success"]))
    return Told(place, False)


def _function(url: str, name: str) -> int:
    with urllib.request.urlopen(f"{url}config", timeout=60) as answer:
        return next(each["id"] for each in json.load(answer)["dependencies"] if each["api_name"] == name)


def _upload(url: str, file: Path) -> str:
    edge = "edgetxedgetx"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{file.name}"\r\n\r\n'
    body = head.encode() + file.read_bytes() + f"\r\n--{edge}--\r\n".encode()
    answer = _post(f"{url}gradio_api/upload", body, f"multipart/form-data; boundary={edge}")
    return str(json.loads(answer)[0])


def _post(url: str, body: bytes, kind: str) -> bytes:
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


class _Memory:
    """The largest resident set of a process while the block runs, read ten times a second."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._file = Path(f"/proc/{pid}/statm")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def now(self) -> int:
        return int(self._file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            self.peak = max(self.peak, self.now())

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
