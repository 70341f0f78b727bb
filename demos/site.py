"""What the pages have in common: look, limits, errors, and how they are served."""

from __future__ import annotations

import functools
import inspect
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from PIL import Image, UnidentifiedImageError

from edgetx import samples
from edgetx.demos import uploads
from edgetx.demos.models import Store
from edgetx.errors import EdgetxError, InputError, UnavailableError
from edgetx.images import READABLE as PICTURES
from edgetx.points import READABLE as SWEEPS

T = TypeVar("T")

MOST_SIDE, MOST_PIXELS = 8192, 2**24
"""Of a picture; refused by its header, before it is decoded."""
MOST_BYTES = "512mb"
"""Of an upload: checkpoints are the largest."""
MOST_SWEEP = 2**25
"""Bytes of a sweep: two million points of four columns."""
MOST_EXAMPLES = 12
"""Of a folder of examples, in the order of their names."""
QUEUE = 256
"""Requests that wait; more are told that the queue is full."""
SESSIONS = 64
"""Visitors whose last results Gradio keeps in memory, whole 3D pages among them; no page needs them again."""
KEPT_SECONDS = 600
"""Gradio removes uploads and results that are older."""

CSS = """
.gradio-container { max-width: 72rem !important; margin: 0 auto; }
.facts table { width: 100%; }
.facts thead:not(:has(th:not(:empty))) { display: none; }
.facts th { word-break: normal !important; }
.facts td { word-break: normal !important; overflow-wrap: anywhere; }
.facts td:first-child { width: 10rem; }
.space, .space > div { padding: 0 !important; }
.space iframe { display: block; width: 100%; height: min(75vh, 40rem); color-scheme: light;
  border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); }
.dark .space iframe { color-scheme: dark; }
.stages { display: grid; grid-template-columns: auto auto 1fr; gap: 0.35rem 0.75rem; align-items: center;
  font-variant-numeric: tabular-nums; }
.stages div:nth-child(3n+2) { text-align: right; }
.stages i { display: block; height: 0.8rem; min-width: 1px; border-radius: 2px;
  background: var(--primary-500); }
@media (max-width: 40rem) {
  .gradio-container { padding: 0.5rem !important; }
  .facts td, .facts th { padding: 0.3rem 0.4rem !important; font-size: 0.85rem; }
  .facts td:first-child { width: auto; overflow-wrap: break-word; }
}
"""


def blocks(title: str) -> gr.Blocks:
    """An empty page."""
    return gr.Blocks(title=f"edgetx: {title}", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS))


def launch(
    built: gr.Blocks, folder: Path, *, host: str = "127.0.0.1", port: int | None = None, share: bool = False
) -> gr.Blocks:
    """Start serving a page and return at once.

    Args:
        folder: of the packages, which no address reaches.
        host, port, share: see `edgetx.demos.serve`.

    Raises:
        InputError: the port is taken.
    """
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    uploads.tidy()
    built.queue(max_size=QUEUE, default_concurrency_limit=1)
    try:
        built.launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            max_file_size=MOST_BYTES,
            allowed_paths=[],
            blocked_paths=[str(folder)],
            theme=gr.themes.Default(**fonts),
            css=CSS,
            footer_links=[],
            strict_cors=True,
            ssr_mode=False,
            enable_monitoring=False,
            state_session_capacity=SESSIONS,
        )
    except OSError as error:
        raise InputError(f"cannot serve on {host}, port {port or '7860 or above'}: {error}") from error
    return built


def picture_input() -> gr.Image:
    """A picture to upload, given to functions as the path of the uploaded file, not decoded."""
    box = gr.Image(label="Picture", sources=["upload", "clipboard"], type="filepath", height=300)
    # Gradio's own would decode it, and turn what it cannot decode into an error of its own.
    box.preprocess = lambda payload: None if payload is None else payload.path
    return box


def check_picture(path: str | None) -> str:
    """The path of a picture whose header says that it is one, of a size that a demo takes.

    Raises:
        InputError: no picture, or none that can be read, or one that is too large.
    """
    if path is None:
        raise InputError("there is no picture; upload one, or choose an example")
    try:
        # Image.open reads the header only; its own limit is above ours, and no error of ours.
        with Image.open(path) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise InputError(f"the picture is too large: {error}; scale it down first") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"{Path(path).name} is not an image that Pillow can read; use a PNG, JPEG, WebP, BMP or TIFF file"
        ) from error
    if max(width, height) > MOST_SIDE or width * height > MOST_PIXELS:
        raise InputError(
            f"the picture is {width}x{height}; this demo takes up to {MOST_SIDE} pixels a side and "
            f"{MOST_PIXELS / 1e6:.0f} million in all: scale it down first"
        )
    return path


def sweep_input() -> gr.File:
    """A sweep to upload, given to functions as the path of the uploaded file."""
    box = gr.File(label=f"Sweep ({', '.join(SWEEPS)})", file_types=list(SWEEPS), height=120)
    # Gradio's own would leave an empty temporary file behind at every run.
    box.preprocess = lambda payload: None if payload is None else payload.path
    return box


def check_sweep(path: str | None) -> str:
    """The path of a sweep of a size that a demo takes.

    Raises:
        InputError: no sweep, or one that is too large.
    """
    if path is None:
        raise InputError("there is no sweep; upload one, or choose an example")
    if (size := Path(path).stat().st_size) > MOST_SWEEP:
        raise InputError(
            f"{Path(path).name} has {size / 2**20:.0f} MB; this demo takes sweeps up to "
            f"{MOST_SWEEP // 2**20} MB"
        )
    return path


def shown(function: Callable[..., T]) -> Callable[..., T]:
    """Show edgetx's own errors on the page as their one line, with names of files instead of paths."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def stream(*arguments: Any, **options: Any) -> Any:
            with _as_text(arguments):
                yield from function(*arguments, **options)

        return stream

    @functools.wraps(function)
    def wrapper(*arguments: Any, **options: Any) -> T:
        with _as_text(arguments):
            return function(*arguments, **options)

    return wrapper


@contextmanager
def _as_text(arguments: Sequence[Any]) -> Iterator[None]:
    try:
        yield
    except EdgetxError as error:
        text = str(error)
        for path in (each for each in arguments if isinstance(each, str) and each.startswith("/")):
            text = text.replace(path, Path(path).name)
        raise gr.Error(text, duration=None, print_exception=False, title="Not done") from None


def facts(rows: Mapping[str, str]) -> str:
    """A table in Markdown."""
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in rows.items())])


def photographs(store: Store) -> list[str]:
    """Pictures to try: those of the store's folder, else real ones (CC0) that scikit-image carries."""
    if store.examples is not None:
        return copied(store, PICTURES)
    try:
        paths = samples.photographs()
    except UnavailableError:
        return []
    folder = store.folder / "examples"
    folder.mkdir(exist_ok=True)
    for path in paths:
        with Image.open(path) as image:
            image.thumbnail((320, 320))
            image.convert("RGB").save(folder / path.name)
    return [str(folder / path.name) for path in paths]


def copied(store: Store, suffixes: Sequence[str]) -> list[str]:
    """The first `MOST_EXAMPLES` files of the store's folder with one of the suffixes, copied beside it.

    Raises:
        InputError: no such folder, or it holds none.
    """
    given = store.examples
    if given is None or not given.is_dir():
        raise InputError(f"{given} is no folder; give one with examples: {', '.join(suffixes)}")
    found = sorted(each for each in given.iterdir() if each.suffix.lower() in suffixes and each.is_file())
    if not found:
        raise InputError(f"{given} holds no examples; accepted: {', '.join(suffixes)}")
    folder = store.folder / "examples"
    folder.mkdir(exist_ok=True)
    return [str(shutil.copy(path, folder / path.name)) for path in found[:MOST_EXAMPLES]]


def steps(progress: Any) -> Callable[[str], None]:
    """edgetx's lines of progress on Gradio's bar."""
    return lambda line: progress(None, desc=line)
