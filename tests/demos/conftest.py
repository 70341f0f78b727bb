"""Fixtures of the demos' tests: tiny models behind the real pages, in the real browser."""

from __future__ import annotations

import os
import re
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from edgetx.demos.models import Store

TINY = (
    "spandrel:SwinIR?upscale=2&window_size=8&img_size=16&depths=[2]&embed_dim=16&num_heads=[2]&mlp_ratio=2"
    "&upsampler=pixelshuffledirect"
)
TINY_CLASSIFIER = (
    "timm:swin_tiny_patch4_window7_224?img_size=56&embed_dim=16&depths=[2,2]&num_heads=[2,2]&num_classes=10"
)
TINIEST_CLASSIFIER = TINY_CLASSIFIER.replace("[2,2]", "[1]")
"""Of one block, for the lines that export a model anew in every run."""


SELECT = """
    bright = Constant<value_float = 0.9>()
    intensity = Gather<axis = 1>(points, three)
    keep = Greater(intensity, bright)
    kept = Compress<axis = 0>(points, keep)
"""
DECODE = """
    xyz = Constant<value_ints = [0, 1, 2]>()
    last = Constant<value_ints = [1]>()
    size = Constant<value_floats = [4.0, 2.0, 1.5]>()
    scores = Gather<axis = 1>(kept, three)
    centers = Gather<axis = 1>(kept, xyz)
    yaws = Unsqueeze(scores, last)
    number = Shape(scores)
    columns = Constant<value_ints = [3]>()
    shape = Concat<axis = 0>(number, columns)
    sizes = Expand(size, shape)
    boxes = Concat<axis = 1>(centers, sizes, yaws)
    zeros = Sub(scores, scores)
    labels = Cast<to = 7>(zeros)
"""


@pytest.fixture(scope="session")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two packages of one detector on points `[points, 4]`: `whole`, and `split` into select and decode.

    Each point whose intensity is above 0.9, the score, is the centre of a Car of 4 x 2 x 1.5 m.
    """
    import onnx

    from edgetx.core import IOSpec, SymbolRange, TensorSpec
    from edgetx.package import IOEntry, StageEntry, create
    from edgetx.processors import PointCloudDetection, to_dict
    from tests.manifests import manifest

    def model(inputs: str, outputs: str, body: str) -> onnx.ModelProto:
        return onnx.parser.parse_model(
            f'<ir_version: 10, opset_import: ["" : 20]> detector ({inputs}) => ({outputs}) '
            f"{{ three = Constant<value_int = 3>() {body} }}"
        )

    points = TensorSpec("points", "float32", ("points", 4))
    kept = TensorSpec("kept", "float32", ("kept", 4))
    found = (
        TensorSpec("boxes", "float32", ("detections", 7)),
        TensorSpec("scores", "float32", ("detections",)),
        TensorSpec("labels", "int64", ("detections",)),
    )
    io = IOSpec((points,), found, {"points": SymbolRange(min=0)})
    boxes = "float[detections, 7] boxes, float[detections] scores, int64[detections] labels"
    parts = {
        "select": (
            IOSpec((points,), (kept,), {"points": SymbolRange(min=0)}),
            model("float[points, 4] points", "float[kept, 4] kept", SELECT),
        ),
        "decode": (
            IOSpec((kept,), found, {"kept": SymbolRange(min=0)}),
            model("float[kept, 4] kept", boxes, DECODE),
        ),
    }
    processor = PointCloudDetection(
        columns=4,
        point_range=(0, -25.6, -3, 51.2, 25.6, 1),
        pillar=(0.8, 0.8, 4),
        window=5,
        group=12,
        classes=("Car",),
    )
    paths = {}
    for name, chosen in (("whole", {}), ("split", parts)):
        with create(tmp_path_factory.mktemp("packages") / name) as draft:
            onnx.save(model("float[points, 4] points", boxes, SELECT + DECODE), draft.model_path)
            draft.save_golden([])
            (draft.path / "stages").mkdir(exist_ok=True)
            for stage, (_, part) in chosen.items():
                onnx.save(part, draft.path / f"stages/{stage}.onnx")
            entries = [
                StageEntry(name=stage, file=f"stages/{stage}.onnx", io=IOEntry.of(part_io))
                for stage, (part_io, _) in chosen.items()
            ]
            draft.seal(manifest(name, io, processor=to_dict(processor), stages=tuple(entries)))
            paths[name] = draft.publish().path
    return paths


@pytest.fixture(scope="session")
def store(detectors: dict[str, Path]) -> Iterator[Store]:
    from edgetx.demos.models import Model, Store, own

    with Store(
        upscalers={"tiny x2": Model(TINY, pretrained=False)},
        classifiers={"tiny Swin": Model(TINY_CLASSIFIER, pretrained=False)},
        **own("points", [detectors["split"], detectors["whole"]]),
        architectures={
            "tiny Swin": Model(TINIEST_CLASSIFIER, pretrained=False),
            "tiny x2, trained": Model("resource:tiny/x2.pth"),
        },
    ) as store:
        yield store


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, photograph: Path) -> Path:
    """A photograph of 48 x 32."""
    from PIL import Image

    path = tmp_path_factory.mktemp("pictures") / "cat.png"
    Image.open(photograph).resize((48, 32)).save(path)
    return path


@pytest.fixture(scope="session")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG whose header says 30,000 x 30,000, complete, of one bit per pixel."""
    path = tmp_path_factory.mktemp("pictures") / "huge.png"

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    deflate = zlib.compressobj(9)
    rows = b"".join(deflate.compress(bytes(3751)) for _ in range(30_000)) + deflate.flush()
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    return path


@pytest.fixture(scope="session")
def served(store: Store) -> Iterator[dict[str, str]]:
    """Address by demo."""
    from edgetx import demos
    from edgetx.demos import site

    pages = {name: demos.page(name, store) for name in demos.NAMES}
    yield {name: site.launch(page, store.packages).local_url for name, page in pages.items()}
    for page in pages.values():
        page.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for one module: Playwright keeps an event loop running in this thread."""
    sync = pytest.importorskip("playwright.sync_api", reason="the pages are driven by playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("the pages are tested in Debian's chromium; apt install chromium")
    with sync.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


class Tab:
    """One page, and what went wrong on it."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(120_000)  # the first run exports the model
        self.problems: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url, url))
        self.page.goto(url)

    def _said(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(message.text)

    def _asked(self, address: str, own: str) -> None:
        if not address.startswith((own, "data:", "blob:")):
            self.elsewhere.append(address)

    def upload(self, file: Path, index: int = 0) -> None:
        self.page.locator("input[type=file]").nth(index).set_input_files(str(file))

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def sees(self, text: str) -> None:
        """Wait for a text; without it, say what the page shows instead."""
        from playwright.sync_api import TimeoutError as Missing

        try:
            self.page.get_by_text(re.compile(text)).first.wait_for()
        except Missing as error:
            shown = self.page.locator("body").inner_text()
            raise AssertionError(
                f"the page never showed {text!r}: {error.message.splitlines()[0]}\n"
                f"its console said {self.problems}; it shows:\n{shown}"
            ) from None

    def keep(self, name: str) -> None:
        """A picture of the page, where `EDGETX_SCREENSHOTS` names a folder."""
        if (folder := os.environ.get("EDGETX_SCREENSHOTS")) is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.fixture
def tab(browser: Any, served: dict[str, str]) -> Iterator[Any]:
    """`tab(demo, **options of the browser's context)`."""
    opened: list[Tab] = []

    def make(name: str, **options: Any) -> Tab:
        opened.append(Tab(browser, served[name], **options))
        return opened[-1]

    yield make
    for each in opened:
        each.context.close()
